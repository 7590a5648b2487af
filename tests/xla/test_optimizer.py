"""A function compiled as the config asks for."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from gemma_tf_distill.config import XlaConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.xla.optimizer import XLAOptimizer, check_flags


def two_products(x, y):
    return tf.nn.gelu(tf.matmul(x, y)) @ y


def test_a_graph_comes_back_compiled_with_its_figures():
    x, y = tf.random.normal([16, 32]), tf.random.normal([32, 32])
    graph = XLAOptimizer().optimize_graph(two_products, x, y)
    tf.debugging.assert_near(graph.function(x, y), two_products(x, y), rtol=1e-4, atol=1e-4)
    assert graph.flops == 2 * 2 * 16 * 32 * 32
    assert graph.statistics.fusions >= 1
    # Both factors are read and the result is written, at least.
    assert graph.statistics.bytes >= 4 * (16 * 32 + 32 * 32 + 16 * 32)
    assert graph.statistics.largest_buffers[0].bytes >= 4 * 16 * 32
    assert graph.statistics.unknown_loops == 0


def test_without_a_scope_nothing_is_compiled():
    optimizer = XLAOptimizer(XlaConfig(jit_scope="none"))
    # The operation has no kernel that XLA can compile.
    function = optimizer.compile(lambda x: tf.py_function(lambda value: value + 1, [x], tf.float32))
    assert float(function(tf.constant(1.0))) == 2.0
    with pytest.raises(ConfigError, match=r"xla\.jit_scope is none: choose step"):
        optimizer.optimize_graph(two_products, tf.ones([2, 2]), tf.ones([2, 2]))


def test_the_environment_adds_to_what_is_there():
    config = XlaConfig(flags=("--xla_cpu_enable_fast_math=true",), cache_dir="here")
    assert config.environment({"XLA_FLAGS": "--xla_a=1", "HOME": "/"}) == {
        "XLA_FLAGS": "--xla_a=1 --xla_cpu_enable_fast_math=true",
        "TF_XLA_FLAGS": "--tf_xla_persistent_cache_directory=here",
    }
    assert XlaConfig().environment({"XLA_FLAGS": "--xla_a=1"}) == {}


def test_flags_are_tried_before_anything_is_run():
    check_flags(XlaConfig(flags=("--xla_cpu_enable_fast_math=true",)))
    with pytest.raises(ConfigError, match=r"xla\.flags are --xla_no_such_flag=1, which XLA refuses \(Unknown flag.*\): remove or correct"):
        check_flags(XlaConfig(flags=("--xla_no_such_flag=1",)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"jit_scope": "all"}, "xla.jit_scope must be step or none, not 'all'"),
        ({"flags": ("-O3",)}, "xla.flags must be a list of texts such as --xla_name=value, not '-O3'"),
        ({"cache_dir": "gs://bucket"}, "xla.cache_dir must be a local folder without spaces, or null, not 'gs://bucket'"),
    ],
)
def test_what_makes_no_sense_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        XlaConfig(**values)


def test_compiled_programs_are_kept_for_the_next_process(tmp_path):
    program = "import tensorflow as tf; print(float(tf.function(lambda x: tf.tanh(x) * 2, jit_compile=True)(tf.constant(0.5))))"
    environment = {**os.environ, **XlaConfig(cache_dir=str(tmp_path)).environment(os.environ)}
    outputs = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        outputs.append((done.stdout, sorted(path.name for path in tmp_path.iterdir())))
    assert outputs[0] == outputs[1]
    assert len(outputs[0][1]) == 1
