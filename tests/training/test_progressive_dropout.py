"""Layer dropout: rates that grow with depth and training, scales that are 1 in the mean."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.taps import forward
from gemma_tf_distill.training.progressive_dropout import ProgressiveDropout

SEED = tf.constant([1, 2])


@given(layers=st.integers(1, 40), rate=st.floats(0, 0.99))
def test_rates_rise_in_equal_steps_to_the_base_rate(layers, rate):
    rates = ProgressiveDropout(layers, rate).dropout_rates
    assert len(rates) == layers
    np.testing.assert_allclose(rates, rate / layers * np.arange(1, layers + 1), rtol=1e-12, atol=1e-300)


@given(progress=st.floats(0, 1, width=32), rate=st.floats(0, 0.9))
def test_scales_are_zero_or_what_keeps_the_mean(progress, rate):
    dropout = ProgressiveDropout(4, rate)
    scales = dropout.layer_scales(tf.constant(progress), 8, SEED).numpy()
    assert scales.dtype == np.float32 and scales.shape == (4, 8)
    kept = 1 / (1 - progress * np.array(dropout.dropout_rates))
    np.testing.assert_allclose(scales, np.where(scales == 0, 0, kept[:, None]), rtol=1e-5)


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.9), (1.0, 0.0)])
def test_all_layers_are_whole_at_the_start_and_without_a_rate(progress, rate):
    np.testing.assert_array_equal(ProgressiveDropout(5, rate).layer_scales(tf.constant(progress), 1000, SEED), np.ones((5, 1000)))


@pytest.mark.parametrize("progress", [0.5, 1.0])
def test_layers_are_left_out_at_their_rates_and_the_expectation_is_kept(progress):
    samples = 40_000
    dropout = ProgressiveDropout(3, 0.6)
    scales = dropout.layer_scales(tf.constant(progress), samples, SEED).numpy()
    rates = progress * np.array(dropout.dropout_rates)
    # Five standard errors of a Bernoulli mean, and of its scaled version.
    error = np.sqrt(rates * (1 - rates) / samples)
    np.testing.assert_array_less(np.abs((scales == 0).mean(1) - rates), 5 * error)
    np.testing.assert_array_less(np.abs(scales.mean(1, dtype=np.float64) - 1), 5 * error / (1 - rates))


def test_layers_and_windows_are_drawn_apart():
    scales = ProgressiveDropout(2, 0.5).layer_scales(tf.constant(1.0), 4000, SEED).numpy() == 0
    # The first layer's rate is 0.25, the second's 0.5: 0.125 of the windows lose both if they are independent.
    assert abs((scales[0] & scales[1]).mean() - 0.125) < 0.03


def test_the_same_seed_draws_the_same_and_another_does_not_also_under_xla():
    dropout = ProgressiveDropout(6, 0.5)

    def draw(seed):
        return dropout.layer_scales(tf.constant(0.8), 16, seed)

    for run in (draw, tf.function(draw, jit_compile=True)):
        np.testing.assert_array_equal(run(SEED), run(SEED))
        assert np.any(run(SEED).numpy() != run(SEED + 1).numpy())


def test_a_student_runs_on_the_layers_that_are_drawn(make_student):
    student = make_student()
    ids = tf.constant(np.random.default_rng(0).integers(4, 300, (16, 6)), tf.int32)
    inputs = {"token_ids": ids, "padding_mask": tf.ones_like(ids)}
    scales = ProgressiveDropout(2, 0.9).layer_scales(tf.constant(1.0), 16, SEED)
    states = forward(student.backbone, inputs, hidden_states=(0, 1), layer_scales=scales).hidden_states
    unchanged = np.all(states[0].numpy() == states[1].numpy(), axis=(1, 2))
    np.testing.assert_array_equal(unchanged, scales[1].numpy() == 0)
    assert 0 < unchanged.sum() < 16


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ConfigError, match=f"base_rate of layer dropout must be at least 0 and below 1, not {rate}"):
        ProgressiveDropout(4, rate)


def test_no_layers_are_refused():
    with pytest.raises(ConfigError, match="num_layers of layer dropout must be at least 1, not 0"):
        ProgressiveDropout(0, 0.1)
