"""Targets in chunks against the teacher's dense log-softmax."""

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.teacher.targets import TargetScorer


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
