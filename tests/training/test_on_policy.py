"""The student's own words: whose tokens count, and that they are drawn from the student as it is."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import OnPolicyConfig, QuantizationConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.quantization.apply import ModelQuantization, fake_quantized
from gemma_tf_distill.training.on_policy import OnPolicySampler

CONFIG = OnPolicyConfig(fraction=0.5, prompt_tokens=4)


@pytest.fixture(scope="module")
def windows(scored_windows):
    return tf.constant(scored_windows.tokens[:8], tf.int32)


def test_it_keeps_the_prompt_and_counts_what_was_written(windows, make_student):
    student = make_student()
    sampler = OnPolicySampler(student, CONFIG, windows.shape[1], seed=1)
    found = {name: value.numpy() for name, value in sampler(windows, 3).items()}
    np.testing.assert_array_equal(found["tokens"][:, :4], windows[:, :4])
    assert not np.array_equal(found["tokens"][:, 4:], windows[:, 4:])
    labels = found["tokens"][:, 1:]
    np.testing.assert_array_equal(found["mask"], (np.arange(1, 12) >= 4) & (labels != 0) & (labels != 2))
    ended = np.isin(found["tokens"][:, 4:-1], (0, 1, 2))
    np.testing.assert_array_equal(found["tokens"][:, 5:][np.maximum.accumulate(ended, axis=1)], 0)
    again, other = sampler(windows, 3), sampler(windows, 4)
    np.testing.assert_array_equal(again["tokens"], found["tokens"])
    assert not np.array_equal(other["tokens"], found["tokens"])
    # It follows the student: at other weights it writes something else.
    student.backbone.token_embedding.embeddings.assign(-2 * student.backbone.token_embedding.embeddings)
    assert not np.array_equal(sampler(windows, 3)["tokens"], found["tokens"])


def test_near_temperature_zero_it_is_the_students_greedy_continuation(windows, make_student):
    student = make_student()
    sampler = OnPolicySampler(student, dataclasses.replace(CONFIG, temperature=1e-4), windows.shape[1], seed=1)
    written = sampler(windows, 0)["tokens"].numpy()
    best = np.argmax(student.logits(written[:, :-1]), axis=-1)
    own = (np.arange(1, written.shape[1]) >= 4) & (written[:, 1:] != 0)
    assert own.sum() > 20
    np.testing.assert_array_equal(written[:, 1:][own], best[own])


def test_a_student_in_training_for_integers_writes_with_them(windows, make_student):
    student, config = make_student(), QuantizationConfig(scheme="int4_channel")
    options = dataclasses.replace(CONFIG, temperature=1e-4), windows.shape[1], 1
    written = OnPolicySampler(student, *options, ModelQuantization(student, config))(windows, 0)["tokens"]
    np.testing.assert_array_equal(written, OnPolicySampler(fake_quantized(student, config), *options)(windows, 0)["tokens"])
    assert not np.array_equal(written, OnPolicySampler(student, *options)(windows, 0)["tokens"])


def test_a_window_that_is_padding_within_the_prompt_counts_nowhere(windows, make_student):
    padded = tf.where(tf.range(windows.shape[1]) < 2, windows, 0)
    found = OnPolicySampler(make_student(), CONFIG, windows.shape[1], seed=1)(padded, 0)
    assert float(tf.reduce_sum(found["mask"])) == 0
    np.testing.assert_array_equal(found["tokens"], padded)


def test_its_share_of_the_batches(windows, make_student):
    for fraction in (0.0, 0.3, 1.0):
        sampler = OnPolicySampler(make_student(), dataclasses.replace(CONFIG, fraction=fraction), windows.shape[1], seed=2)
        chosen = np.mean([sampler.chooses(step) for step in range(400)])
        # Four standard errors of a binomial of 400; none at 0 and 1.
        assert abs(chosen - fraction) <= 4 * np.sqrt(fraction * (1 - fraction) / 400)


def test_a_prompt_as_long_as_the_window_is_refused(make_student):
    with pytest.raises(ConfigError, match=r"prompt_tokens is 12, which leaves the student nothing to write of a window of 12 tokens"):
        OnPolicySampler(make_student(), OnPolicyConfig(fraction=1.0, prompt_tokens=12), 12, seed=0)
