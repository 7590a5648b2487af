"""Token losses on every kind of target, held to their definitions over the whole vocabulary in float64."""

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, Schedule
from gemma_tf_distill.transfer.supports import NO_WORD
from gemma_tf_distill.transfer.token_losses import SoftAndHardTargets
from gemma_tf_distill.transfer.vocabulary_loss import vocabulary_loss

TOKENS, WORDS, WIDTH, TEACHER_WIDTH = 11, 23, 6, 9


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(7)

    def normal(*shape):
        return tf.constant(random.normal(size=shape), tf.float32)

    return {
        "hidden": normal(TOKENS, WIDTH),
        "embedding": normal(WORDS, WIDTH),
        "teacher_states": normal(TOKENS, TEACHER_WIDTH),
        "teacher_embedding": normal(WORDS, TEACHER_WIDTH),
        "labels": tf.constant(random.integers(0, WORDS, TOKENS), tf.int32),
        "mask": tf.constant([1.0] * 8 + [0.0] * 3),
    }


def float64_log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def definition(name, teacher, student, beta):
    """Each divergence as it is written in its paper, on log-probabilities in float64."""
    p, q = np.exp(teacher), np.exp(student)
    m = beta * p + (1 - beta) * q
    return {
        "forward_kl": (p * (teacher - student)).sum(-1),
        "reverse_kl": (q * (student - teacher)).sum(-1),
        "jensen_shannon": beta * (p * (teacher - np.log(m))).sum(-1) + (1 - beta) * (q * (student - np.log(m))).sum(-1),
        "total_variation": 0.5 * np.abs(p - q).sum(-1),
    }[name]


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon", "total_variation"])
@pytest.mark.parametrize(("temperature", "soft_cap", "chunk"), [(1.0, None, 4), (2.0, 3.0, 11)])
def test_a_live_teachers_whole_distribution(case, divergence, temperature, soft_cap, chunk):
    config = DistillationConfig(targets="dense", divergence=divergence, beta=0.3)
    terms = SoftAndHardTargets(config, 0.4, temperature, case["teacher_embedding"], soft_cap)
    student = [case["hidden"], case["embedding"]]
    with tf.GradientTape() as tape:
        tape.watch(student)
        targets = {"labels": case["labels"], "teacher_states": case["teacher_states"]}
        sums = vocabulary_loss(*student, targets, case["mask"], terms, chunk=chunk, logit_soft_cap=soft_cap)
    gradients = tape.gradient(sums["loss"], student)

    def capped(logits):
        return logits if soft_cap is None else soft_cap * tf.tanh(logits / soft_cap)

    teacher = capped(case["teacher_states"] @ tf.transpose(case["teacher_embedding"]))
    with tf.GradientTape() as dense_tape:
        dense_tape.watch(student)
        logits = capped(student[0] @ tf.transpose(student[1]))
        dense = terms(logits, {"labels": case["labels"], "teacher_logits": teacher})
        dense_loss = tf.reduce_sum(dense["loss"] * case["mask"])
    mask = case["mask"].numpy()
    expected = definition(divergence, float64_log_softmax(teacher / temperature), float64_log_softmax(logits / temperature), 0.3)
    np.testing.assert_allclose(sums["soft_loss"], (expected * mask).sum(), rtol=1e-5)
    nll = -np.take_along_axis(float64_log_softmax(logits), case["labels"].numpy()[:, None], -1)[:, 0]
    np.testing.assert_allclose(sums["hard_loss"], (nll * mask).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums["loss"], 0.4 * temperature**2 * (expected * mask).sum() + 0.6 * (nll * mask).sum(), rtol=1e-5)
    for got, want in zip(gradients, dense_tape.gradient(dense_loss, student), strict=True):
        # Relative to the largest entry: float32 sums in another order.
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * float(tf.reduce_max(tf.abs(want))))


def test_the_teacher_gets_no_gradient(case):
    terms = SoftAndHardTargets(DistillationConfig(targets="dense"), 1.0, 1.0, case["teacher_embedding"])
    teacher = [case["teacher_states"], case["teacher_embedding"]]
    with tf.GradientTape() as tape:
        tape.watch(teacher)
        found = terms(case["hidden"] @ tf.transpose(case["embedding"]), {"labels": case["labels"], "teacher_states": teacher[0]})
    assert tape.gradient(found["loss"], teacher) == [None, None]


def test_the_gradient_of_sampled_targets_is_the_dense_one_in_expectation():
    random = np.random.default_rng(3)
    teacher, logits = (tf.constant(random.normal(size=(1, WORDS)) * 2, tf.float32) for _ in range(2))
    draws, repeats = 256, 400
    terms = SoftAndHardTargets(DistillationConfig(targets="sampled", draws=draws), 1.0, 1.0)
    many = tf.Variable(tf.repeat(logits, repeats, axis=0))
    ids = tf.random.stateless_categorical(tf.repeat(teacher, repeats, axis=0), draws, seed=[1, 2], dtype=tf.int32)
    targets = {
        "labels": tf.zeros([repeats], tf.int32),
        "teacher_ids": ids,
        "teacher_log_probs": tf.fill(ids.shape, -np.float32(np.log(draws))),
    }
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(terms(many, targets)["loss"])
    mean = tape.gradient(loss, many).numpy().mean(axis=0)
    p = tf.nn.softmax(teacher).numpy()[0]
    # A word's share of the draws is binomial: no mean should be four standard errors away (0.15 % if all is well; the seed is fixed).
    error = np.sqrt(p * (1 - p) / (draws * repeats))
    dense = tf.nn.softmax(logits).numpy()[0] - p
    assert np.all(np.abs(mean - dense) < 4 * error)
    # And the bound can tell: the top 8, renormalised, misses it.
    best = np.argsort(p)[-8:]
    top = np.zeros_like(p)
    top[best] = p[best] / p[best].sum()
    assert np.any(np.abs(tf.nn.softmax(logits).numpy()[0] - top - dense) > 4 * error)


def test_how_often_a_word_was_drawn_is_its_weight(case):
    logits = case["hidden"] @ tf.transpose(case["embedding"])
    terms = SoftAndHardTargets(DistillationConfig(targets="sampled", draws=4), 1.0, 1.0)
    one_by_one = {"teacher_ids": tf.constant([[3, 3, 3, 5]] * TOKENS), "teacher_log_probs": tf.fill([TOKENS, 4], -float(np.log(4)))}
    # As a store hands it out: distinct words, their share, and padding of probability 0.
    counted = {
        "teacher_ids": tf.constant([[3, 5, 0, 0]] * TOKENS),
        "teacher_log_probs": tf.constant([[np.log(0.75), np.log(0.25), NO_WORD, NO_WORD]] * TOKENS, tf.float32),
    }
    losses = [terms(logits, {"labels": case["labels"], **targets})["loss"] for targets in (one_by_one, counted)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    expected = -(0.75 * float64_log_softmax(logits)[:, 3] + 0.25 * float64_log_softmax(logits)[:, 5])
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)


def test_a_scheduled_temperature_softens_targets_that_were_stored_at_one(case):
    logits = case["hidden"] @ tf.transpose(case["embedding"])
    log_probs, ids = tf.math.top_k(tf.nn.log_softmax(case["teacher_states"] @ tf.transpose(case["teacher_embedding"])), 5)
    config = DistillationConfig(temperature=Schedule(start=4.0, end=1.0), tail="renormalise")
    found = SoftAndHardTargets(config, 1.0, tf.constant(2.5))(
        logits, {"labels": case["labels"], "teacher_ids": ids, "teacher_log_probs": log_probs}
    )
    teacher = float64_log_softmax(log_probs / 2.5)
    student = float64_log_softmax(np.take_along_axis(np.asarray(logits, np.float64), ids.numpy(), -1) / 2.5)
    expected = (np.exp(teacher) * (teacher - student)).sum(-1)
    np.testing.assert_allclose(found["soft_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], 2.5**2 * expected, rtol=1e-5)


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon", "total_variation"])
def test_a_token_with_fewer_words_than_others_is_padded(case, divergence, tail):
    logits = case["hidden"] @ tf.transpose(case["embedding"])
    log_probs, ids = tf.math.top_k(tf.nn.log_softmax(case["teacher_states"] @ tf.transpose(case["teacher_embedding"])), 5)
    terms = SoftAndHardTargets(DistillationConfig(divergence=divergence, tail=tail), 1.0, 1.0)
    padded = {
        "teacher_ids": tf.pad(ids, [[0, 0], [0, 3]]),
        "teacher_log_probs": tf.pad(log_probs, [[0, 0], [0, 3]], constant_values=NO_WORD),
    }
    short = terms(logits, {"labels": case["labels"], "teacher_ids": ids, "teacher_log_probs": log_probs})
    long = terms(logits, {"labels": case["labels"], **padded})
    assert np.all(np.isfinite(long["loss"]))
    np.testing.assert_allclose(long["soft_loss"], short["soft_loss"], rtol=1e-5)
