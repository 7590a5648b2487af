"""Targets in chunks against the teacher's dense log-softmax."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.teacher.targets import SampledTargetScorer, TargetScorer, _words_at


@pytest.fixture(scope="module")
def tokens():
    tokens = np.random.default_rng(1).integers(4, 300, size=(3, 9))
    tokens[:, 0] = 2
    tokens[2, 6:] = 0
    return tf.constant(tokens, tf.int32)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk", [5, 1000])
def test_equal_the_dense_log_softmax(tiny_teacher, tokens, temperature, chunk):
    targets = TargetScorer(tiny_teacher, top_k=7, temperature=temperature, chunk=chunk)(tokens)
    logits = tiny_teacher.logits(tokens[:, :-1])
    expected, expected_ids = tf.math.top_k(tf.nn.log_softmax(logits / temperature), 7)
    np.testing.assert_array_equal(targets.teacher_ids, expected_ids)
    np.testing.assert_allclose(targets.teacher_log_probs, expected, atol=1e-5)
    label = tf.gather(tf.nn.log_softmax(logits), tokens[:, 1:], batch_dims=2)
    np.testing.assert_allclose(targets.teacher_label_log_prob, label, atol=1e-5)


def test_top_k_larger_than_the_vocabulary_is_refused(tiny_teacher):
    with pytest.raises(ConfigError, match="top_k is 421, but the vocabulary has 420 words"):
        TargetScorer(tiny_teacher, top_k=421)


def test_draws_come_as_often_as_the_teacher_finds_them_probable(tiny_teacher, tokens):
    draws = 64
    scorer = SampledTargetScorer(tiny_teacher, draws=draws, temperature=1.5, chunk=5)
    expected = tf.nn.softmax(tiny_teacher.logits(tokens[:, :-1]) / 1.5).numpy()
    random = np.random.default_rng(0)
    total, repeats = np.zeros_like(expected), 200
    for _ in range(repeats):
        targets = scorer(tokens, tf.constant(random.random((3, 8)), tf.float32))
        counts = tf.reduce_sum(tf.one_hot(targets.teacher_ids, expected.shape[-1]), axis=2).numpy()
        # Systematic: never a whole draw away from what is expected; float32 sums of 420 words may move an edge by a little.
        assert np.all(np.abs(counts - draws * expected) < 1 + 1e-3)
        total += counts
    # The number of a word is one of two neighbours, so its variance is at most 1/4: five standard errors over 10,080 means.
    assert np.all(np.abs(total / repeats - draws * expected) < 5 * 0.5 / np.sqrt(repeats))
    np.testing.assert_allclose(targets.teacher_log_probs, -np.log(draws), rtol=1e-6)
    label = tf.gather(tf.nn.log_softmax(tiny_teacher.logits(tokens[:, :-1])), tokens[:, 1:], batch_dims=2)
    np.testing.assert_allclose(targets.teacher_label_log_prob, label, atol=1e-5)


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1e-8, 1e-3, 0.5, 1.0]), min_size=1, max_size=700).filter(any),
    st.sampled_from([0.0, 0.3, 1 - 2**-24]),
)
@settings(max_examples=60, deadline=None)
def test_a_word_without_probability_is_never_drawn(weights, uniform):
    probabilities = np.float32(weights) / np.float32(np.sum(weights))
    comb = (tf.range(256, dtype=tf.float32) + uniform) / 256
    words = _words_at(tf.constant(probabilities[np.newaxis]), comb[tf.newaxis]).numpy()[0]
    assert words.min() >= 0
    assert probabilities[words].min() > 0


def test_nonsense_is_refused(tiny_teacher):
    for options in ({"draws": 0}, {"draws": 4, "temperature": 0.0}):
        with pytest.raises(ConfigError, match="of a SampledTargetScorer must be"):
            SampledTargetScorer(tiny_teacher, **options)
    for options in ({"top_k": 0}, {"top_k": 4, "temperature": -1.0}):
        with pytest.raises(ConfigError, match="of a TargetScorer must be"):
            TargetScorer(tiny_teacher, **options)
