"""The lattices: what must hold for any weights."""

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config.quantization import SCHEMES
from gemma_tf_distill.errors import ConfigError, WeightsError
from gemma_tf_distill.quantization.rounding import E4M3, E5M2, round_mantissa, round_to
from gemma_tf_distill.quantization.schemes import get_scheme

EVERY = sorted(SCHEMES)
ROWS, INPUTS = 3, 256

# Of all magnitudes that weights have, among them ties, zeros, and whole rows and blocks of zeros.
SPECIAL = hypothesis.extra.numpy.arrays(
    np.float32, (ROWS, INPUTS), elements=st.integers(-1000, 1000).map(lambda x: x / 128), fill=st.sampled_from([0.0, 0.5, -3.5])
)
NORMAL = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=(ROWS, INPUTS)))
MAGNITUDES = hypothesis.extra.numpy.arrays(np.float32, (ROWS, 1), elements=st.sampled_from([1.0, 0.01, 3.7, 1e-4, 1e-12, 0.0]))
WEIGHTS = st.builds(lambda weights, magnitudes: (weights * magnitudes).astype(np.float32), NORMAL | SPECIAL, MAGNITUDES)


def steps(scheme, weights, scales):
    """The distance between the lattice's numbers around each weight."""
    wide = np.repeat(scales, weights.shape[1] // scales.shape[1], axis=1).astype(np.float64)
    if scheme.name != "fp8_e4m3":
        return wide
    ratio = np.maximum(np.abs(weights) / wide, 2.0**-6)
    return wide * 2.0 ** (np.floor(np.log2(ratio)) - 3)


@pytest.mark.parametrize("name", EVERY)
@hypothesis.given(weights=WEIGHTS)
@hypothesis.settings(max_examples=40)
def test_what_holds_for_all_weights(name, weights):
    scheme = get_scheme(name)
    scales = scheme.scales(tf.constant(weights)).numpy()
    quantized = scheme.fake_quantize(tf.constant(weights)).numpy()
    assert np.all(scales > 0)
    assert np.all(np.isfinite(quantized))

    # Quantising twice changes nothing: neither weights, nor scales, nor codes.
    np.testing.assert_array_equal(scheme.fake_quantize(tf.constant(quantized)), quantized)
    codes = scheme.codes(tf.constant(weights)).numpy()
    np.testing.assert_array_equal(scheme.codes(tf.constant(quantized)), codes)
    np.testing.assert_array_equal(scheme.scales(tf.constant(quantized)), scales)

    # Half a step at the most; float32's own rounding of code times scale is on top.
    error = np.abs(quantized.astype(np.float64) - weights)
    assert np.all(error <= steps(scheme, weights, scales) * (0.5 + 1e-4))
    assert np.all(quantized[weights == 0] == 0)

    # The largest weight under each scale has the largest code, unless the scale is the least there is.
    peaks = np.abs(weights).reshape(ROWS, scales.shape[1], -1).max(-1)
    reached = np.abs(codes).reshape(ROWS, scales.shape[1], -1).max(-1)
    least = scheme.scales(tf.zeros([1, INPUTS])).numpy().min()
    assert np.all(reached[scales > least] == scheme.largest)
    assert np.all(reached[peaks == 0] == 0)

    # Twice the weights are twice the lattice, to the bit.
    if np.all((scales > least) | (peaks == 0)):
        np.testing.assert_array_equal(scheme.fake_quantize(tf.constant(weights * 8)), quantized * 8)


@pytest.mark.parametrize("name", EVERY)
def test_xla_finds_the_same_bits_on_every_axis(name):
    scheme = get_scheme(name)
    weights = (np.random.default_rng(0).normal(size=(512, 256)) * 0.05).astype(np.float32)
    weights[3] = 0
    plain = scheme.fake_quantize(tf.constant(weights)).numpy()
    np.testing.assert_array_equal(tf.function(scheme.fake_quantize, jit_compile=True)(tf.constant(weights)), plain)
    np.testing.assert_array_equal(tf.transpose(scheme.fake_quantize(tf.constant(weights.T), axis=0)), plain)
    # Query kernels are [heads, in, head_dim].
    heads = weights.reshape(8, 64, 256).transpose(0, 2, 1)
    found = scheme.fake_quantize(tf.constant(heads), axis=1).numpy()
    np.testing.assert_array_equal(found.transpose(0, 2, 1).reshape(512, 256), plain)


@pytest.mark.parametrize("largest", [7, 127])
def test_a_scale_is_found_again_for_every_float32(largest):
    # All mantissas of one binade stand for all floats: the exponent changes nothing.
    peaks = np.arange(2**23, 2**24, dtype=np.uint32).astype(np.float32)
    scales = peaks / np.float32(largest)
    np.testing.assert_array_equal(scales * np.float32(largest) / np.float32(largest), scales)


def test_the_scale_formulas():
    weights = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
    peak = np.abs(weights).max(1, keepdims=True)
    for name, largest in (("int4_channel", 7), ("int8_channel", 127), ("fp8_e4m3", 448)):
        np.testing.assert_array_equal(get_scheme(name).scales(tf.constant(weights)), peak / np.float32(largest))
    blocks = np.abs(weights).reshape(5, 2, 32).max(-1) / np.float32(7)
    expected = blocks.astype(ml_dtypes.bfloat16).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(get_scheme("int4_block32").scales(tf.constant(weights)), expected)
    assert get_scheme("int4_block32").scales(tf.zeros([1, 32])).numpy() == np.float32(2.0**-14)


def test_a_frozen_scale_stays_while_the_largest_weight_has_the_largest_code():
    scheme = get_scheme("int4_channel")
    weights = np.array([[7.0, 1.0], [7.0, 1.0], [7.0, 1.0], [0.0, 0.0]], np.float32)
    scales = scheme.scales(tf.constant(weights))
    moved = tf.constant([[6.6, 1.0], [7.4, 1.0], [6.0, 1.0], [0.0, 0.0]])
    kept = scheme.frozen_scales(moved, scales)
    np.testing.assert_array_equal(kept[:2], scales[:2])
    np.testing.assert_array_equal(kept[2:], scheme.scales(moved)[2:])
    assert np.all(np.abs(scheme.codes(moved, kept)).max(1)[:3] == 7)


@pytest.mark.parametrize(("target", "dtype"), [(E4M3, ml_dtypes.float8_e4m3fn), (E5M2, ml_dtypes.float8_e5m2)])
def test_narrow_floats_are_rounded_as_ml_dtypes_casts_them(target, dtype):
    every = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    every = np.sort(every[np.isfinite(every)])
    halves = (every[1:] + every[:-1]) / 2
    values = np.concatenate([every, halves, np.random.default_rng(0).normal(size=10_000).astype(np.float32) * 10])
    expected = values.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(tf.function(lambda x: round_to(x, target), jit_compile=True)(tf.constant(values)), expected)
    assert round_to(tf.constant(1e9), target).numpy() == target.largest


def test_bfloat16_is_rounded_as_ml_dtypes_casts_it():
    values = np.exp(np.random.default_rng(0).normal(size=10_000)).astype(np.float32)
    rounded = tf.function(lambda x: round_mantissa(x, 7, 2.0**-14), jit_compile=True)(tf.constant(values))
    np.testing.assert_array_equal(rounded, values.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_bytes_count_codes_and_scales():
    assert get_scheme("int4_channel").bytes_for(10, 64) == 10 * (32 + 4)
    assert get_scheme("int4_block32").bytes_for(10, 64) == 10 * (32 + 2 * 2)
    assert get_scheme("fp8_e4m3").bytes_for(10, 64) == get_scheme("int8_channel").bytes_for(10, 64) == 10 * (64 + 4)


def test_what_can_not_be_quantised_is_named():
    with pytest.raises(ConfigError, match="one of int4_channel, int4_block32"):
        get_scheme("int3")
    for bad in (np.inf, np.nan):
        with pytest.raises(WeightsError, match=r"layers\.0\.up holds 1 weights that are inf or NaN, of 4"):
            get_scheme("int4_channel").check_weights("layers.0.up", np.array([1.0, bad, 2.0, 3.0]))
    with pytest.raises(WeightsError, match="a float16 scale of int4_block32 reaches 65280"):
        get_scheme("int4_block32").check_weights("embedding", np.array([1e6]))
