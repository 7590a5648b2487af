"""The TPU compiler's plan for programs whose memory is known beforehand."""

import importlib.util
import os

import pytest
import tensorflow as tf

from gemma_tf_distill.errors import MissingExtraError
from gemma_tf_distill.xla.tpu_compiler import DoesNotFitError, tpu_memory

ROWS, INNER, COLUMNS = 8192, 256, 16384
SPEC = tf.TensorSpec([ROWS, INNER], tf.bfloat16)


@pytest.fixture(scope="module")
def product_memory():
    pytest.importorskip("jax")
    pytest.importorskip("libtpu")
    weights = tf.Variable(tf.zeros([INNER, COLUMNS], tf.bfloat16))

    @tf.function(jit_compile=True)
    def largest(states):
        logits = tf.matmul(states, weights)
        # The column's largest value is read again for every row: the product can't be forgotten before it is whole.
        return tf.argmax(logits - tf.reduce_max(logits, axis=0), axis=1, output_type=tf.int32)

    before = dict(os.environ)
    memory = tpu_memory(largest, SPEC)
    ours = {"TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES", "JAX_PLATFORMS"}
    return memory, {name: (before.get(name), os.environ.get(name)) for name in ours}


def test_temporaries_hold_the_product_and_arguments_the_factors(product_memory):
    memory, _ = product_memory
    product = ROWS * COLUMNS * 2
    assert product <= memory.temporaries < 2.1 * product
    # A captured variable is an argument too.
    assert memory.arguments == 2 * (ROWS * INNER + INNER * COLUMNS)
    assert memory.outputs >= ROWS * 4
    assert memory.aliased == 0


def test_the_environment_is_as_before(product_memory):
    for name, (before, after) in product_memory[1].items():
        assert before == after, name


@pytest.mark.parametrize("missing", ["jax", "libtpu"])
def test_without_the_extra_the_message_names_it(monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(MissingExtraError, match=rf"needs {missing}, which is not installed: .*\[tpu\]"):
        tpu_memory(tf.function(tf.identity, jit_compile=True), SPEC)


def test_a_program_that_does_not_fit_is_told_by_how_much():
    pytest.importorskip("jax")
    pytest.importorskip("libtpu")

    @tf.function(jit_compile=True)
    def largest(states):
        logits = tf.matmul(states, states, transpose_b=True)
        return tf.argmax(logits - tf.reduce_max(logits, axis=0), axis=1, output_type=tf.int32)

    with pytest.raises(DoesNotFitError, match=r"exceeds available HBM \(15\.75G\)") as refused:
        tpu_memory(largest, tf.TensorSpec([200_000, INNER], tf.bfloat16))
    assert abs(refused.value.temporaries - 200_000**2 * 2) < 0.2 * 200_000**2 * 2
