"""Fitted projections: the regression is the textbook's, a cut model comes nearer to the whole one, padding counts for nothing."""

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import WidthCut
from gemma_tf_distill.gemma.activations import block_activations, embedded
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.projection_fit import _RIDGE, fit_projections
from gemma_tf_distill.gemma.width_cut import choose, cut_width, keep_parts, measure_activity


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    """More windows than are run at a time, of different lengths, and more tokens than a block has neurons."""
    ids = np.random.default_rng(3).integers(4, 400, (21, 24)).astype(np.int32)
    ids[:, 0] = 2
    ids[4, 15:] = 0
    ids[20, 3:] = 0
    return ids


@pytest.fixture
def cut_and_channels(tiny_teacher, windows) -> tuple[Gemma, np.ndarray]:
    activity = measure_activity(tiny_teacher, windows)
    kept = choose(activity, WidthCut(hidden_dim=24, intermediate_dim=20, num_query_heads=2), tiny_teacher.config)
    return keep_parts(tiny_teacher, kept, activity), kept.channels


def inputs_of(model: Gemma, windows: np.ndarray):
    """What enters the first block, and which positions are tokens."""
    return embedded(model.backbone, tf.constant(windows)), tf.constant(windows != 0, tf.int32)


def test_the_first_projections_are_the_ridge_regression(tiny_teacher, cut_and_channels, windows):
    smaller, channels = cut_and_channels
    block, whole = smaller.backbone.transformer_layers[0], tiny_teacher.backbone.transformer_layers[0]
    wanted = block_activations(whole, *inputs_of(tiny_teacher, windows))
    before = {name: kernel.numpy().astype(np.float64) for name, kernel in kernels(block).items()}
    fit_projections(smaller, tiny_teacher, windows, channels)
    # Attention's inputs are not changed by the fit, and the neurons' only by attention's new projection.
    found = block_activations(block, *inputs_of(smaller, windows))
    for name, given, target in (("heads", found.heads, wanted.attention), ("neurons", found.neurons, wanted.feedforward)):
        old = before[name].reshape(-1, len(channels))
        rows = np.reshape(given, [-1, len(old)])[windows.ravel() != 0].astype(np.float64)
        targets = np.reshape(target, [-1, 32])[windows.ravel() != 0][:, channels]
        weight = np.sqrt(_RIDGE * np.square(rows).sum() / len(old))
        rows, targets = np.concatenate([rows, weight * np.eye(len(old))]), np.concatenate([targets, weight * old])
        expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
        np.testing.assert_allclose(np.reshape(kernels(block)[name], expected.shape), expected, atol=1e-4 * np.abs(expected).max())


def kernels(block) -> dict:
    return {"heads": block.attention.output_dense.kernel, "neurons": block.ffw_linear.kernel}


def test_a_fitted_cut_is_nearer_to_the_whole_model(tiny_teacher, cut_and_channels, windows):
    smaller, _ = cut_and_channels
    fitted = cut_width(tiny_teacher, WidthCut(hidden_dim=24, intermediate_dim=20, num_query_heads=2), windows)
    expected = tiny_teacher.logits(windows).numpy()[windows != 0]

    def error(model: Gemma) -> float:
        return float(np.square(model.logits(windows).numpy()[windows != 0] - expected).mean())

    assert error(fitted) < 0.8 * error(smaller)


def test_padding_counts_for_nothing(tiny_teacher, cut_and_channels, windows):
    smaller, channels = cut_and_channels
    start = smaller.backbone.get_weights()
    fit_projections(smaller, tiny_teacher, windows[:8], channels)
    fitted = smaller.backbone.get_weights()
    smaller.backbone.set_weights(start)
    fit_projections(smaller, tiny_teacher, np.concatenate([windows[:8], np.zeros_like(windows[:8])]), channels)
    for weight, expected in zip(smaller.backbone.get_weights(), fitted, strict=True):
        np.testing.assert_array_equal(weight, expected)
