"""The optimizer's slots in half the memory."""

import keras
import numpy as np
import tensorflow as tf

from gemma_tf_distill.config import TrainingConfig
from gemma_tf_distill.training.optimizers import make_optimizer


def trained(dtype, steps=60):
    """A matrix and a vector on their way to a target, by gradients with noise."""
    random = np.random.default_rng(0)
    variables = [keras.Variable(np.zeros(shape, "float32")) for shape in ((16, 8), (8,))]
    targets = [random.normal(size=variable.shape).astype("float32") for variable in variables]
    optimizer = make_optimizer(TrainingConfig(learning_rate=0.05, optimizer_dtype=dtype), steps, variables)

    @tf.function(jit_compile=True)
    def step(noise):
        optimizer.apply([variable.value - target + n for variable, target, n in zip(variables, targets, noise, strict=True)], variables)

    for _ in range(steps):
        step([tf.constant(random.normal(scale=0.3, size=target.shape).astype("float32")) for target in targets])
    return [np.array(variable) for variable in variables], optimizer, targets


def test_slots_in_bfloat16_lead_to_the_same_place():
    weights, optimizer, targets = trained("bfloat16")
    expected, reference, _ = trained("float32")
    slots = [variable for variable in optimizer.variables if len(variable.shape) > 0]
    assert len(slots) == 4
    assert {variable.dtype for variable in slots} == {"bfloat16"}
    assert {variable.dtype for variable in reference.variables if len(variable.shape) > 0} == {"float32"}
    for got, want, target in zip(weights, expected, targets, strict=True):
        moved = np.abs(want).max()
        # A slot is off by at most 2 and 4 % of itself, and so is each step.
        assert np.abs(got - want).max() < 0.04 * moved
        assert np.abs(want - target).mean() < 0.5 * np.abs(target).mean()


def test_with_float32_slots_it_is_keras_own():
    optimizer = trained("float32", steps=1)[1]
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert type(optimizer).update_step is keras.optimizers.AdamW.update_step


def test_the_first_step_is_adams_to_rounding():
    (small, *_), (whole, *_) = trained("bfloat16", steps=1), trained("float32", steps=1)
    for got, want in zip(small, whole, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
