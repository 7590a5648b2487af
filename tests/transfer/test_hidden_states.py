"""LinearPathDistillation, held to a plain computation in float64 forward and backward."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.transfer.hidden_states import LinearPathDistillation

BATCH, LENGTH, MINE, THEIRS = 2, 5, 6, 10
SEED = tf.constant([3, 4])
MASK = np.ones((BATCH, LENGTH), np.float32)
MASK[1, 3:] = 0


def states(seed: int, width: int, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, scale, (BATCH, LENGTH, width)).astype(np.float32)


def built(dropout_rate: float = 0.0, mine: int = MINE, theirs: int = THEIRS, **options) -> LinearPathDistillation:
    layer = LinearPathDistillation(theirs, dropout_rate, seed=0, **options)
    layer.build([None, None, mine])
    return layer


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def dense(layer: LinearPathDistillation, student: np.ndarray, teacher: np.ndarray, kept: np.ndarray | float = 1.0) -> np.ndarray:
    projected = norm(np.float64(student) @ np.float64(layer.kernel)) * kept
    return np.square(projected - norm(np.float64(teacher))).mean(-1) * MASK


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_is_the_mean_squared_error_of_normalised_states(seed):
    layer = built()
    student, teacher = states(seed, MINE), states(seed + 1, THEIRS)
    loss = layer(tf.constant(student), tf.constant(teacher), tf.constant(MASK), training=True)
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, dense(layer, student, teacher), rtol=1e-5, atol=1e-6)


def test_is_zero_at_equality_whatever_the_scale_and_offset():
    layer = built(mine=THEIRS)
    teacher = states(1, THEIRS)
    np.testing.assert_allclose(layer(tf.constant(7 * teacher - 2), tf.constant(teacher), tf.constant(MASK)), 0.0, atol=1e-5)


def test_padding_never_changes_it():
    layer = built()
    student, teacher = states(1, MINE), states(2, THEIRS)
    before = layer(tf.constant(student), tf.constant(teacher), tf.constant(MASK)).numpy()
    student[1, 3:], teacher[1, 3:] = 100.0, -9.0
    np.testing.assert_array_equal(layer(tf.constant(student), tf.constant(teacher), tf.constant(MASK)), before)
    assert np.all(before[1, 3:] == 0) and np.all(before[0] > 0)


def gradients(layer):
    """A function of states and mask to the loss and its gradients to the student's states, the kernel and the teacher's states."""

    def compute(student, teacher, mask):
        with tf.GradientTape() as tape:
            tape.watch([student, teacher])
            loss = tf.reduce_sum(layer(student, teacher, mask, training=True, seed=SEED)) / tf.reduce_sum(mask)
        return loss, *tape.gradient(loss, [student, layer.kernel.value, teacher])

    return compute


def test_gradients_are_those_of_the_formula_also_under_xla():
    layer = built()
    arguments = tf.constant(states(1, MINE)), tf.constant(states(2, THEIRS)), tf.constant(MASK)
    student, teacher, kernel = (tf.cast(value, tf.float64) for value in (*arguments[:2], layer.kernel.value))

    def normalised(x):
        return (x - tf.reduce_mean(x, -1, keepdims=True)) / tf.sqrt(tf.math.reduce_variance(x, -1, keepdims=True) + 1e-6)

    with tf.GradientTape() as tape:
        tape.watch([student, kernel])
        loss = tf.reduce_sum(tf.reduce_mean((normalised(student @ kernel) - normalised(teacher)) ** 2, -1) * MASK) / MASK.sum()
    expected = loss, *tape.gradient(loss, [student, kernel])
    for found in (gradients(layer)(*arguments), tf.function(gradients(layer), jit_compile=True)(*arguments)):
        assert found[3] is None
        assert np.all(found[1].numpy()[1, 3:] == 0)
        for value, reference in zip(found[:3], expected, strict=True):
            np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-6)


def test_the_backward_pass_computes_it_again_with_the_same_dropout(monkeypatch):
    layer = built(0.5)
    products = []
    matmul = tf.matmul
    monkeypatch.setattr(tf, "matmul", lambda *arguments: products.append(matmul(*arguments)) or products[-1])
    student, teacher = tf.Variable(states(1, MINE)), tf.constant(states(2, THEIRS))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(student, teacher, tf.constant(MASK), training=True, seed=SEED))
    assert len(products) == 1
    gradient = tape.gradient(loss, student)
    assert len(products) == 2
    np.testing.assert_array_equal(products[0], products[1])
    # A step along the gradient changes the loss as the gradient says only if both passes dropped the same.
    step = 1e-3 * gradient / tf.norm(gradient)
    moved = [tf.reduce_sum(layer(student + sign * step, teacher, tf.constant(MASK), training=True, seed=SEED)) for sign in (1, -1)]
    assert float(moved[0] - moved[1]) / 2e-3 == pytest.approx(float(tf.norm(gradient)), rel=0.02)


def test_dropout_is_seeded_keeps_the_mean_and_is_off_at_evaluation():
    layer = built(0.25)
    draws = 4000
    student, teacher = (tf.tile(tf.constant(states(seed, width)[:1, :2]), [draws, 1, 1]) for seed, width in ((1, MINE), (2, THEIRS)))
    mask = tf.ones([draws, 2])

    def drop(seed):
        return layer(student, teacher, mask, training=True, seed=tf.constant([0, seed])).numpy()

    samples = drop(1)
    np.testing.assert_array_equal(drop(1), samples)
    assert np.any(drop(2) != samples)
    whole = layer(student, teacher, mask).numpy()
    np.testing.assert_array_equal(whole, built()(student, teacher, mask, training=True))
    # E (x m / (1 - p) - t)^2 = (x - t)^2 + x^2 p / (1 - p), where m is 1 with probability 1 - p: right only if the mean is kept.
    projected = norm(np.float64(student[0]) @ np.float64(layer.kernel))
    expected = whole[0] + np.square(projected).mean(-1) * 0.25 / 0.75
    assert np.all(np.abs(samples.mean(0, dtype=np.float64) - expected) < 5 * samples.std(0) / np.sqrt(draws))


def test_bfloat16_states_are_projected_in_bfloat16_and_compared_in_float32():
    layer = built()
    student, teacher = states(1, MINE), states(2, THEIRS)
    loss = layer(tf.constant(student, tf.bfloat16), tf.constant(teacher, tf.bfloat16), tf.constant(MASK))
    assert loss.dtype == tf.float32
    # Eight bits of mantissa on values of size 1: errors of about 1 in 100.
    np.testing.assert_allclose(loss, dense(layer, student, teacher), atol=0.05)


def test_how_the_projector_begins():
    np.testing.assert_array_equal(built(mine=THEIRS).kernel, np.eye(THEIRS))
    kernel = np.asarray(built().kernel)
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(MINE), atol=1e-5)
    np.testing.assert_array_equal(built().kernel, kernel)
    glorot = np.asarray(built(projector="glorot_uniform").kernel)
    assert np.all(np.abs(glorot) <= np.sqrt(6 / (MINE + THEIRS))) and not np.allclose(glorot @ glorot.T, np.eye(MINE), atol=0.1)
    assert np.any(np.asarray(built(mine=THEIRS, projector="orthogonal").kernel) != np.eye(THEIRS))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="identity needs equal widths, but the student's states are 6 wide and the teacher's 10"):
        built(projector="identity")
    with pytest.raises(ConfigError, match="projector must be one of identity, orthogonal, glorot_uniform or none, not 'zeros'"):
        built(projector="zeros")
    with pytest.raises(ConfigError, match=r"dropout_rate must be at least 0 and below 1, not 1\.0"):
        built(1.0)
    with pytest.raises(ConfigError, match="hidden_dim must be at least 1, not 0"):
        built(theirs=0)
    with pytest.raises(ValueError, match="needs a seed while training"):
        built(0.1)(tf.constant(states(1, MINE)), tf.constant(states(2, THEIRS)), tf.constant(MASK), training=True)
