"""What is counted in a program, beside programs whose figures are known."""

import pytest
import tensorflow as tf

from gemma_tf_distill.xla.hlo import HloProgram
from gemma_tf_distill.xla.tpu_compiler import compile_for_tpu, lowered

MIB = 2**20


def square(size):
    return tf.TensorSpec([size, size], tf.float32)


def test_products_in_loops_count_as_often_as_they_run():
    @tf.function(jit_compile=True)
    def run(x, batch):
        def inner(j, y):
            return j + 1, tf.matmul(y, x)

        def outer(i, y):
            _, y = tf.while_loop(lambda j, _: j < 3, inner, (tf.constant(0), y), maximum_iterations=3)
            return i + 1, y

        _, y = tf.while_loop(lambda i, _: i < 5, outer, (tf.constant(0), x), maximum_iterations=5)
        return y, tf.matmul(batch, batch, transpose_b=True)

    program = lowered(run, square(64), tf.TensorSpec([2, 16, 32]))
    assert program.flops() == 5 * 3 * 2 * 64**3 + 2 * 2 * 16 * 32 * 16
    assert program.parameters == ["f32[64,64]", "f32[2,16,32]"]
    assert program.statistics().unknown_loops == 0


def test_a_loop_of_unknown_length_is_said_to_be_one():
    @tf.function(jit_compile=True)
    def run(x):
        return tf.while_loop(lambda y: tf.reduce_sum(y) > 1.0, lambda y: (tf.matmul(y, x),), (x,))[0]

    program = lowered(run, square(8))
    assert program.statistics().unknown_loops == 1
    assert program.flops() == 2 * 8**3


@pytest.fixture(scope="module")
def on_tpu():
    pytest.importorskip("jax")
    pytest.importorskip("libtpu")

    def compiled(function, *specs, updated=0):
        return compile_for_tpu(lowered(tf.function(function, jit_compile=True), *specs), "v5e:2x2", updated=updated)

    return compiled


def test_elementwise_work_reads_and_writes_each_number_once(on_tpu):
    stats = on_tpu(lambda x, y: tf.tanh(x + y) * y, square(4096), square(4096)).hlo.statistics()
    assert stats.bytes == 3 * 64 * MIB
    assert stats.fusions == 1
    assert stats.largest_buffers[0].bytes == 64 * MIB
    assert stats.largest_buffers[0].shape == "f32[4096,4096]"


def test_of_a_slice_only_the_slice_is_read(on_tpu):
    def run(x, i):
        return tf.slice(x, [i, 0], [8, 4096]) * 2.0

    moved = on_tpu(run, square(4096), tf.TensorSpec([], tf.int32)).hlo.statistics().bytes
    assert 2 * 8 * 4096 * 4 <= moved < 4 * 8 * 4096 * 4


def test_a_result_that_is_written_over_its_argument_takes_no_memory(on_tpu):
    def run(x):
        return x * 0.5, tf.reduce_sum(x)

    apart, over = on_tpu(run, square(4096)).memory, on_tpu(run, square(4096), updated=1).memory
    assert (apart.aliased, over.aliased) == (0, 64 * MIB)
    assert over.total <= apart.total - 63 * MIB


def test_the_module_that_is_given_is_not_changed():
    program = lowered(tf.function(lambda x: x + 1.0, jit_compile=True), square(8))
    assert HloProgram(program.aliased(1)).aliased(0) != program.aliased(0)
    assert program.aliased(0) == HloProgram(program.aliased(0)).aliased(0)
