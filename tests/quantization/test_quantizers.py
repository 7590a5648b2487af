"""TF-MOT quantizers on Keras 3: values, gradients, ranges, all inside XLA."""

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.quantization.activations import per_token_int8, per_token_symmetric_int8
from gemma_tf_distill.quantization.linear import QuantizedLinear
from gemma_tf_distill.quantization.quantizers import (
    ActivationQuantizer,
    DelayedFloat8Quantizer,
    Keras3Weights,
    LatticeQuantizer,
    LearnedStepQuantizer,
    learned_step,
)
from gemma_tf_distill.quantization.schemes import get_scheme

RANDOM = np.random.default_rng(0)


def built(quantizer, shape=(4, 32)):
    return quantizer.build(shape, "x", Keras3Weights(keras.layers.Layer()))


def normal(*shape, scale=1.0):
    return tf.constant(RANDOM.normal(scale=scale, size=shape).astype(np.float32))


@pytest.mark.parametrize(
    "quantizer", [LatticeQuantizer("int4_block32"), ActivationQuantizer(), LearnedStepQuantizer(), DelayedFloat8Quantizer()]
)
def test_they_are_tf_mots_quantizers(quantizer):
    assert isinstance(quantizer, tfmot.quantization.keras.quantizers.Quantizer)
    again = type(quantizer).from_config(quantizer.get_config())
    assert again.get_config() == quantizer.get_config()


def test_a_weight_is_put_on_its_lattice_and_the_gradient_goes_to_the_weight():
    quantizer, weight, upstream = LatticeQuantizer("int4_block32"), tf.Variable(normal(8, 64)), normal(8, 64)
    variables = built(quantizer, (8, 64))

    @tf.function(jit_compile=True)
    def run():
        with tf.GradientTape() as tape:
            value = quantizer(tf.convert_to_tensor(weight), True, variables)
            loss = tf.reduce_sum(value * upstream)
        return value, tape.gradient(loss, weight)

    value, gradient = run()
    np.testing.assert_array_equal(value, get_scheme("int4_block32").fake_quantize(tf.convert_to_tensor(weight)))
    np.testing.assert_array_equal(gradient, upstream)
    np.testing.assert_array_equal(variables["scales"], get_scheme("int4_block32").scales(tf.convert_to_tensor(weight)))


def test_scales_stay_when_they_are_frozen():
    quantizer, weight = LatticeQuantizer("int8_channel"), normal(4, 32)
    variables = built(quantizer)
    # Nothing was seen yet: the first call sets them also without training.
    quantizer(weight, False, variables)
    before = variables["scales"].numpy()
    np.testing.assert_array_equal(before, get_scheme("int8_channel").scales(weight))
    quantizer(weight * 1.001, tf.constant(False), variables)
    np.testing.assert_array_equal(variables["scales"], before)
    quantizer(weight * 1.001, tf.constant(True), variables)
    assert np.all(variables["scales"].numpy() > before)


@pytest.mark.parametrize("name", ["int4_channel", "int4_block32", "int8_channel"])
def test_the_straight_through_gradient_is_that_of_the_surrogate(name):
    """The surrogate does not round: it is the weight itself inside the lattice's range, with the same loss after it."""
    quantizer, weight, x = LatticeQuantizer(name), normal(3, 32), normal(5, 32)
    variables = built(quantizer, (3, 32))
    quantized = quantizer(weight, True, variables)
    scheme, scales = get_scheme(name), variables["scales"]

    def surrogate(change):
        wide = tf.repeat(scales, 32 // scales.shape[1], axis=1)
        inside = tf.clip_by_value(weight + change, -(scheme.largest + 0.5) * wide, (scheme.largest + 0.5) * wide)
        return tf.reduce_sum(tf.square(tf.matmul(x, quantized + inside - weight, transpose_b=True)))

    with tf.GradientTape() as tape:
        tape.watch(weight)
        loss = tf.reduce_sum(tf.square(tf.matmul(x, quantizer(weight, True, variables), transpose_b=True)))
    gradient = tape.gradient(loss, weight).numpy()
    for row, column in ((0, 0), (1, 7), (2, 31)):
        change = np.zeros((3, 32), np.float32)
        change[row, column] = 0.01
        difference = (surrogate(tf.constant(change)) - surrogate(tf.constant(-change))) / 0.02
        # The loss is quadratic: a central difference is exact but for rounding.
        np.testing.assert_allclose(gradient[row, column], difference, rtol=2e-3, atol=2e-2)


def reference_xnnpack(row):
    """`xnn_qd8_asymmetric_quantization_params` and the conversion, one float32 operation after the other."""
    f = np.float32
    least, largest = min(f(0), row.min()), max(f(0), row.max())
    scale = f(1) if least == largest else f(255) / f(largest - least)
    below, above = f(least * scale), f(largest * scale)
    zero = f(-128) - below if f(-128) + below + (f(127) + above) > 0 else f(127) - above
    zero = np.rint(np.clip(zero, f(-128), f(127)))
    codes = np.clip(np.rint(row * scale) + zero, -128, 127)
    return (codes - zero).astype(np.float32) * f(f(1) / scale)


def test_dynamic_int8_is_xnnpacks():
    x = np.concatenate([RANDOM.normal(size=(50, 64)), np.abs(RANDOM.normal(size=(5, 64))), -np.abs(RANDOM.normal(size=(5, 64)))])
    x = np.concatenate([x, np.zeros((1, 64))]).astype(np.float32)
    expected = np.stack([reference_xnnpack(row) for row in x])
    np.testing.assert_array_equal(per_token_int8(tf.constant(x)), expected)
    np.testing.assert_allclose(tf.function(per_token_int8, jit_compile=True)(tf.constant(x)), expected, rtol=1e-6)
    assert np.all(np.abs(expected - x) <= (np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0))[:, None] / 255 * 0.5001 + 1e-7)
    symmetric = per_token_symmetric_int8(tf.constant(x)).numpy()
    assert np.all(np.abs(symmetric - x) <= np.abs(x).max(1, keepdims=True) / 127 * 0.5001)


@pytest.mark.parametrize("mode", ["dynamic_int8", "dynamic_int8_symmetric", "moving_average", "last_value", "learned", "fp8", "none"])
def test_every_mode_runs_compiled_keeps_the_dtype_and_passes_gradients(mode):
    quantizer = ActivationQuantizer(mode)
    variables = built(quantizer)
    for dtype in (tf.float32, tf.bfloat16):
        x = tf.cast(normal(2, 4, 32), dtype)

        @tf.function(jit_compile=True)
        def run(x=x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = quantizer(x, True, variables)
                loss = tf.reduce_sum(tf.cast(y, tf.float32))
            return y, tape.gradient(loss, x)

        y, gradient = run()
        assert y.dtype == gradient.dtype == dtype
        assert np.mean(gradient.numpy().astype(np.float32) == 1) > 0.98
        np.testing.assert_allclose(tf.cast(y, tf.float32), tf.cast(x, tf.float32), atol=0.15)


def test_unknown_modes_and_bits_are_refused():
    with pytest.raises(ConfigError, match="one of dynamic_int8, dynamic_int8_symmetric, moving_average"):
        ActivationQuantizer("int3")
    with pytest.raises(ConfigError, match="bits of a LearnedStepQuantizer must be 2 to 8, not 16"):
        LearnedStepQuantizer(16)


def test_tf_mots_ranges_follow_only_while_training():
    quantizer = ActivationQuantizer("last_value")
    variables = built(quantizer)
    x = normal(4, 32, scale=3)
    quantizer(x, True, variables)
    assert variables["max_var"].numpy() == np.max(x)
    quantizer(x * 2, False, variables)
    assert variables["max_var"].numpy() == np.max(x)


def test_the_learned_step_has_lsqs_gradients():
    x, step = tf.constant([[-9.0, -0.6, 0.2, 1.4, 30.0]]), tf.constant(0.5)
    with tf.GradientTape() as tape:
        tape.watch([x, step])
        y = learned_step(x, step, -8.0, 7.0)
        loss = tf.reduce_sum(y)
    np.testing.assert_allclose(y, [[-4.0, -0.5, 0.0, 1.5, 3.5]])
    to_x, to_step = tape.gradient(loss, [x, step])
    np.testing.assert_array_equal(to_x, [[0, 1, 1, 1, 0]])
    expected = (-8) + (-1 + 1.2) + (0 - 0.4) + (3 - 2.8) + 7
    np.testing.assert_allclose(to_step, expected / np.sqrt(5 * 7), rtol=1e-5)


def test_the_learned_step_begins_at_the_papers_value_and_stays_trainable():
    quantizer, layer = LearnedStepQuantizer(), keras.layers.Layer()
    variables = quantizer.build((4, 32), "x", Keras3Weights(layer))
    x = normal(4, 32)
    quantizer(x, True, variables)
    np.testing.assert_allclose(variables["step"], 2 * np.mean(np.abs(x)) / np.sqrt(127), rtol=1e-6)
    assert [v.name for v in layer.trainable_variables] == ["x_step"]


def test_delayed_scaling_goes_by_the_calls_before():
    quantizer = DelayedFloat8Quantizer()
    variables = built(quantizer)
    first = tf.constant([[1.0, -2.0, 0.3]])
    y = quantizer(first, True, variables)
    scale = np.float32(2 / 448)
    np.testing.assert_array_equal(y, (first.numpy() / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale)
    # Twice as large as what is expected is cut off, once.
    np.testing.assert_allclose(quantizer(first * 2, True, variables)[0, 1], -2.0, rtol=1e-6)
    np.testing.assert_allclose(quantizer(first * 2, False, variables)[0, 1], -4.0, rtol=1e-6)
    np.testing.assert_array_equal(variables["history"][:3], [4, 2, 0])


def test_gradients_are_e5m2_where_values_are_not():
    quantizer = DelayedFloat8Quantizer(gradients=True)
    variables = built(quantizer)
    x, upstream = normal(4, 8), normal(4, 8)

    @tf.function(jit_compile=True)
    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = quantizer(x, True, variables)
            loss = tf.reduce_sum(y * upstream)
        return y, tape.gradient(loss, x)

    y, gradient = run()
    np.testing.assert_array_equal(y, x)
    scale = np.max(np.abs(upstream)) / np.float32(57344)
    expected = (upstream.numpy() / scale).astype(ml_dtypes.float8_e5m2).astype(np.float32) * scale
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    assert variables["history"][0].numpy() == np.max(np.abs(upstream))


@pytest.mark.parametrize(("bits", "block"), [(4, 32), (8, None)])
def test_a_linear_layer_trains_on_its_lattice(bits, block):
    layer = QuantizedLinear(64, 8, bits, block=block)
    x, target = normal(16, 64), normal(16, 8)
    model = keras.Sequential([keras.Input((64,)), layer])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", jit_compile=True)
    before = model.evaluate(x, target, verbose=0)
    model.fit(x, target, epochs=20, verbose=0)
    assert model.evaluate(x, target, verbose=0) < before / 2
    scheme = layer.weight_quantizer.scheme
    quantized = scheme.fake_quantize(tf.convert_to_tensor(layer.kernel))
    # Without training the scales are those of the last step; with it they are the weight's.
    np.testing.assert_allclose(layer(x, training=True), tf.matmul(per_token_int8(x), quantized, transpose_b=True), rtol=1e-5, atol=1e-5)
    again = QuantizedLinear.from_config(layer.get_config())
    assert (again.bits, again.block, again.in_features, again.out_features) == (bits, block, 64, 8)


def test_a_linear_layer_in_mixed_precision_keeps_its_lattice_in_float32():
    layer = QuantizedLinear(64, 8, 4, block=32, activations="none", dtype="mixed_bfloat16")
    x = tf.cast(normal(4, 64), tf.bfloat16)
    found = layer(x, training=True)
    assert (found.dtype, layer.kernel.dtype) == (tf.bfloat16, "float32")
    lattice = layer.weight_quantizer.scheme.fake_quantize(tf.convert_to_tensor(layer.kernel))
    np.testing.assert_allclose(
        tf.cast(found, tf.float32), tf.matmul(tf.cast(x, tf.float32), lattice, transpose_b=True), rtol=0.02, atol=0.02
    )


def test_a_lattice_refuses_blocks_that_do_not_divide():
    with pytest.raises(ConfigError, match="int4_block64 cuts inputs into blocks of 64, but there are 96: use int4_channel, int4_block32"):
        built(LatticeQuantizer("int4_block64"), (4, 96))


def test_a_linear_layer_takes_any_leading_shape_and_refuses_what_it_can_not():
    assert QuantizedLinear(32, 8, 4)(tf.zeros([2, 3, 32])).shape == (2, 3, 8)
    with pytest.raises(ConfigError, match="bits of QuantizedLinear must be 4 or 8, not 3"):
        QuantizedLinear(32, 8, 3)
    with pytest.raises(ConfigError, match=r"blocks of 64, but there are 96: use int4_channel, int4_block32"):
        QuantizedLinear(96, 8, 4, block=64)
    with pytest.raises(ConfigError, match="block of QuantizedLinear must be 32, 64, 128 or 256, with 4 bits, not 32"):
        QuantizedLinear(96, 8, 8, block=32)
