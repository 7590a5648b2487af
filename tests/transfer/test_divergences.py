"""The divergences over all words, the teacher's top k words and a tail bucket, or the top k alone."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.config import DistillationConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.transfer.divergences import forward_kl, jensen_shannon, make_divergence, reverse_kl, top_k_forward_kl, total_variation
from gemma_tf_distill.transfer.supports import renormalised, with_tail
from gemma_tf_distill.transfer.token_losses import SoftAndHardTargets

WORDS = 17


def log_probs(seed: int, scale: float = 2.0) -> tf.Tensor:
    return tf.nn.log_softmax(tf.constant(np.random.default_rng(seed).normal(size=(3, WORDS)) * scale, tf.float32))


def dense_kl(teacher: tf.Tensor, student: tf.Tensor) -> np.ndarray:
    teacher, student = np.asarray(teacher, np.float64), np.asarray(student, np.float64)
    return np.sum(np.exp(teacher) * (teacher - student), axis=-1)


@settings(max_examples=25, deadline=None)
@given(teacher=st.integers(0, 999), student=st.integers(1000, 1999), k=st.integers(1, WORDS))
def test_is_never_negative_and_never_above_the_dense_kl(teacher, student, k):
    best, ids = tf.math.top_k(log_probs(teacher), k)
    kl = top_k_forward_kl(log_probs(student), ids, best).numpy()
    assert np.all(kl >= -1e-5)
    # The floor of the tail (1e-6) moves the value by about 1e-6 * log(1e6).
    assert np.all(kl <= dense_kl(log_probs(teacher), log_probs(student)) + 2e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, WORDS))
def test_is_zero_at_equality(seed, k):
    best, ids = tf.math.top_k(log_probs(seed), k)
    np.testing.assert_allclose(top_k_forward_kl(log_probs(seed), ids, best), 0.0, atol=1e-5)


def test_equals_the_dense_kl_where_k_is_the_vocabulary():
    best, ids = tf.math.top_k(log_probs(1), WORDS)
    np.testing.assert_allclose(top_k_forward_kl(log_probs(2), ids, best), dense_kl(log_probs(1), log_probs(2)), rtol=1e-4)


def test_a_certain_teacher_gives_finite_values_and_gradients():
    teacher = tf.nn.log_softmax(tf.constant([[60.0] + [0.0] * (WORDS - 1)]))
    best, ids = tf.math.top_k(teacher, 4)
    student = tf.Variable(tf.reverse(teacher, [-1]))
    with tf.GradientTape() as tape:
        kl = top_k_forward_kl(tf.nn.log_softmax(student), ids, best)
    assert np.all(np.isfinite(kl)) and np.all(np.isfinite(tape.gradient(kl, student)))


def test_the_tail_of_a_whole_vocabulary_is_its_floor():
    np.testing.assert_allclose(tf.exp(with_tail(log_probs(3)))[:, -1], 1e-6, atol=2e-6)


NAMES = ("forward_kl", "reverse_kl", "jensen_shannon", "total_variation")


@settings(max_examples=20, deadline=None)
@given(teacher=st.integers(0, 999), student=st.integers(1000, 1999), beta=st.floats(0.05, 0.95))
@pytest.mark.parametrize("name", NAMES)
def test_every_divergence_is_at_least_zero_and_zero_at_equality(name, teacher, student, beta):
    divergence = make_divergence(DistillationConfig(divergence=name, beta=beta))
    assert np.all(divergence(log_probs(teacher), log_probs(student)).numpy() > 0)
    np.testing.assert_allclose(divergence(log_probs(teacher), log_probs(teacher)), 0.0, atol=1e-6)


def test_they_are_their_definitions_in_float64():
    p, q = (np.exp(np.asarray(log_probs(seed), np.float64)) for seed in (1, 2))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)

    def kl(a, b):
        return (a * np.log(a / b)).sum(-1)

    teacher, student = log_probs(1), log_probs(2)
    np.testing.assert_allclose(forward_kl(teacher, student), kl(p, q), rtol=1e-5)
    np.testing.assert_allclose(reverse_kl(teacher, student), kl(q, p), rtol=1e-5)
    middle = 0.3 * p + 0.7 * q
    np.testing.assert_allclose(jensen_shannon(teacher, student, 0.3), 0.3 * kl(p, middle) + 0.7 * kl(q, middle), rtol=1e-5)
    np.testing.assert_allclose(total_variation(teacher, student), np.abs(p - q).sum(-1) / 2, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(teacher=st.integers(0, 999), student=st.integers(1000, 1999))
def test_jensen_shannon_is_symmetric_at_one_half_and_bounded(teacher, student):
    there, back = (jensen_shannon(log_probs(a), log_probs(b)).numpy() for a, b in ((teacher, student), (student, teacher)))
    np.testing.assert_allclose(there, back, rtol=1e-5)
    assert np.all(there <= np.log(2) + 1e-6)
    assert np.all(total_variation(log_probs(teacher), log_probs(student)).numpy() <= 1)


def test_renormalised_top_k_is_a_distribution_and_ignores_the_tail():
    best, _ = tf.math.top_k(log_probs(4), 5)
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(renormalised(best)), -1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(renormalised(best - 3.0), renormalised(best), atol=1e-6)


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
@pytest.mark.parametrize("name", NAMES)
def test_each_is_chosen_in_the_config_and_has_finite_gradients(name, tail):
    loss = SoftAndHardTargets(DistillationConfig(divergence=name, tail=tail), alpha=1.0, temperature=1.0)
    best, ids = tf.math.top_k(log_probs(5), 4)
    student = tf.Variable(log_probs(6))
    targets = {"labels": tf.constant([1, 2, 3]), "teacher_ids": ids, "teacher_log_probs": best}
    with tf.GradientTape() as tape:
        terms = loss(student, targets)
        total = tf.reduce_sum(terms["loss"])
    assert float(total) > 0
    gradient = tape.gradient(total, student).numpy()
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient != 0)


def test_a_beta_or_a_name_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"distillation\.beta must be between 0 and 1, both excluded, not 1\.0"):
        DistillationConfig(beta=1.0)
    with pytest.raises(ConfigError, match=r"distillation\.divergence must be one of forward_kl"):
        DistillationConfig(divergence="kl")
    with pytest.raises(ValueError, match="beta must be between 0 and 1"):
        jensen_shannon(log_probs(1), log_probs(2), 0.0)
