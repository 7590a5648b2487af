"""KL over the teacher's top k words and a tail bucket."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.transfer.divergences import tail_probability, top_k_forward_kl

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


def test_tail_probability_of_a_whole_vocabulary_is_its_floor():
    np.testing.assert_allclose(tail_probability(log_probs(3)), 1e-6, atol=2e-6)
