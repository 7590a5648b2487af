"""How alike hidden states are: against a plain float64 computation, and what must not change it."""

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.gemma.taps import forward
from gemma_tf_distill.transfer.feature_similarity import _kernel, feature_similarity


@pytest.fixture(scope="module")
def inputs():
    tokens = np.random.default_rng(0).integers(4, 300, size=(3, 12))
    mask = np.ones((3, 12), np.int32)
    mask[1, 7:] = 0
    return {"token_ids": tf.constant(tokens, tf.int32), "padding_mask": tf.constant(mask)}


def reference(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Kornblith et al. 2019: |Y'X|^2 / (|X'X| |Y'Y|) of centred directions, in float64."""
    x, y = ((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(float) for rows in (mine, theirs))
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def test_it_is_the_formula_for_every_pair_of_layers_of_any_widths(make_gemma, inputs):
    teacher, student = make_gemma(num_layers=3, hidden_dim=48), make_gemma(seed=1)
    similarity = feature_similarity(teacher.backbone, student.backbone, inputs)
    assert similarity.shape == (2, 3)
    counted = inputs["padding_mask"].numpy() != 0
    states = [forward(model.backbone, inputs, hidden_states=range(model.backbone.num_layers)).hidden_states for model in (student, teacher)]
    for mine in range(2):
        for theirs in range(3):
            expected = reference(states[0][mine].numpy()[counted], states[1][theirs].numpy()[counted])
            assert similarity[mine, theirs] == pytest.approx(expected, abs=1e-5)


def test_a_model_is_most_like_itself(make_gemma, inputs):
    model = make_gemma(num_layers=3)
    similarity = feature_similarity(model.backbone, model.backbone, inputs)
    np.testing.assert_allclose(np.diag(similarity), 1, atol=1e-5)
    np.testing.assert_allclose(similarity, similarity.T, atol=1e-6)
    assert np.max(similarity - np.eye(3)) < 0.999


def test_rotation_and_scale_change_nothing_and_no_difference_is_no_likeness():
    random = np.random.default_rng(1)
    states = random.normal(size=(20, 6)).astype(np.float32)
    rotation, _ = np.linalg.qr(random.normal(size=(6, 6)))
    kernel = _kernel(tf.constant(states))
    turned = _kernel(tf.constant((7 * states @ rotation).astype(np.float32)))
    assert float(tf.reduce_sum(kernel * turned)) == pytest.approx(1, abs=1e-5)
    assert float(tf.reduce_sum(kernel * _kernel(tf.ones([20, 6])))) == pytest.approx(0, abs=1e-3)
