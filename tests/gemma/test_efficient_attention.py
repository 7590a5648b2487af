"""Attention in tiles, held to attention with all scores at once, forward and backward."""

import functools
import itertools
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill import AttentionConfig, EfficientAttention
from gemma_tf_distill.errors import ConfigError

SCALE = 0.4
DENSE = EfficientAttention(AttentionConfig())


def in_blocks(block):
    return EfficientAttention(AttentionConfig(use_flash_attention=True, block_size=block))


def normal(random, *shape, dtype=tf.float32):
    return tf.constant(random.normal(size=shape), dtype)


def inputs(random, length, *, heads=4, kv_heads=2, windows=2, width=6, dtype=tf.float32):
    """Query, key and value whose scores spread by about 1."""
    return [normal(random, windows, length, count, width, dtype=dtype) for count in (heads, kv_heads, kv_heads)]


def output_and_gradients(attention, tensors, weights, **options):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        output = attention(*tensors, scale=SCALE, **options)
        loss = tf.reduce_sum(tf.cast(output, tf.float32) * weights)
    return [output, *tape.gradient(loss, tensors)]


def assert_near(found, expected, tolerance):
    """Each tensor within `tolerance` of its largest entry, or of 1, which its terms have the size of where they cancel each other."""
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        mine, theirs = (tf.cast(x, tf.float32).numpy() for x in (mine, theirs))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance * max(np.abs(theirs).max(), 1.0))


@st.composite
def cases(draw):
    length, kv_heads = draw(st.integers(1, 45)), draw(st.sampled_from([1, 2]))
    return {
        "length": length,
        "kv_heads": kv_heads,
        "heads": kv_heads * draw(st.sampled_from([1, 2, 4])),
        "block": draw(st.sampled_from([8, 16, 24, 64])),
        "sliding_window": draw(st.one_of(st.none(), st.integers(1, 50))),
        "logit_soft_cap": draw(st.sampled_from([None, 1.5])),
        "padding_mask": draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=length, max_size=length))),
        "segment_ids": draw(st.one_of(st.none(), st.lists(st.integers(-1, 2), min_size=length, max_size=length))),
    }


@hypothesis.given(cases(), st.integers(0, 2**16))
@hypothesis.settings(max_examples=30)
def test_tiles_give_what_all_scores_at_once_give(case, seed):
    random = np.random.default_rng(seed)
    length, block = case.pop("length"), case.pop("block")
    tensors = inputs(random, length, heads=case.pop("heads"), kv_heads=case.pop("kv_heads"))
    for name, dtype in (("padding_mask", tf.int32), ("segment_ids", tf.int32)):
        if case[name] is not None:
            # The second window's is another one.
            case[name] = tf.constant([case[name], case[name][::-1]], dtype)
    weights = normal(random, *tensors[0].shape)
    found, expected = (output_and_gradients(attention, tensors, weights, **case) for attention in (in_blocks(block), DENSE))
    # Float32 sums of at most 45 terms in another order, and exponentials of sums that end in another bit.
    assert_near(found, expected, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float32, 1e-5), (tf.bfloat16, 0.03)])
@pytest.mark.parametrize("window", [None, 20])
def test_compiled_it_is_the_same(dtype, tolerance, window):
    random = np.random.default_rng(3)
    tensors = inputs(random, 50, dtype=dtype)
    weights = normal(random, *tensors[0].shape)
    mask = tf.constant([[0] * 3 + [1] * 47, [1] * 40 + [0] * 10])
    compiled = tf.function(output_and_gradients, jit_compile=True)
    found = compiled(in_blocks(16), tensors, weights, sliding_window=window, padding_mask=mask)
    # Held to float32, of the same values: bfloat16 rounds products and probabilities to 1/256 of themselves, one after the other.
    exact = output_and_gradients(DENSE, [tf.cast(x, tf.float32) for x in tensors], weights, sliding_window=window, padding_mask=mask)
    assert_near([tf.cast(x, tf.float32) for x in found], exact, tolerance)


def test_by_hand_a_query_sees_its_window_and_nothing_else():
    value = tf.reshape(tf.constant([1.0, 2.0, 4.0, 8.0]), [1, 4, 1, 1])
    flat = tf.zeros_like(value)
    for attention in (DENSE, in_blocks(8)):
        gather = functools.partial(attention, flat, flat, value, scale=1.0)
        np.testing.assert_allclose(np.ravel(gather()), [1, 1.5, 7 / 3, 3.75], rtol=1e-6)
        np.testing.assert_allclose(np.ravel(gather(sliding_window=2)), [1, 1.5, 3, 6], rtol=1e-6)
        np.testing.assert_allclose(np.ravel(gather(padding_mask=tf.constant([[0, 1, 1, 0]]))), [0, 2, 3, 3], rtol=1e-6)
        np.testing.assert_allclose(np.ravel(gather(segment_ids=tf.constant([[5, 5, 9, 9]]))), [1, 1.5, 4, 6], rtol=1e-6)


@pytest.mark.parametrize("attention", [DENSE, in_blocks(8)], ids=["dense", "tiles"])
@pytest.mark.parametrize("window", [None, 5])
def test_packed_documents_are_what_each_is_alone(attention, window):
    random = np.random.default_rng(0)
    tensors = inputs(random, 30, windows=1)
    weights = normal(random, *tensors[0].shape)
    ends = [0, 11, 12, 30]
    documents = tf.constant([[0] * 11 + [1] + [2] * 18])
    packed = output_and_gradients(attention, tensors, weights, sliding_window=window, segment_ids=documents)
    for begin, end in itertools.pairwise(ends):
        alone = output_and_gradients(attention, [x[:, begin:end] for x in tensors], weights[:, begin:end], sliding_window=window)
        assert_near([x[:, begin:end] for x in packed], alone, 1e-5)


@pytest.mark.parametrize("attention", [DENSE, in_blocks(8)], ids=["dense", "tiles"])
def test_queries_that_see_nothing_gather_zeros_and_give_no_gradient(attention):
    random = np.random.default_rng(0)
    tensors = inputs(random, 20, windows=1)
    mask = tf.constant([[0] * 9 + [1] * 11])
    weights = normal(random, *tensors[0].shape)
    output, of_query, of_key, of_value = output_and_gradients(attention, tensors, weights, padding_mask=mask)
    for x in (output, of_query, of_key, of_value):
        assert np.all(np.isfinite(x))
        np.testing.assert_array_equal(x[:, :9], 0)
    assert np.all(output[:, 9:] != 0)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_scores_of_any_size_stay_numbers(scale):
    random = np.random.default_rng(0)
    tensors = inputs(random, 20)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        output = in_blocks(8)(*tensors, scale=scale, sliding_window=12)
    for x in (output, *tape.gradient(output, tensors)):
        assert np.all(np.isfinite(x))
    np.testing.assert_allclose(output, DENSE(*tensors, scale=scale, sliding_window=12), atol=1e-5)


def largest_tensor(attention, length, window):
    """Entries of the largest array anywhere in the compiled forward and backward pass."""
    specs = [tf.TensorSpec([1, length, heads, 8]) for heads in (4, 2, 2)]

    @tf.function(jit_compile=True)
    def run(query, key, value, mask):
        return output_and_gradients(attention, [query, key, value], 1.0, sliding_window=window, padding_mask=mask)

    text = run.experimental_get_compiler_ir(*specs, tf.TensorSpec([1, length], tf.int32))(stage="optimized_hlo")
    shapes = re.findall(r"\b(?:f32|s32|pred|bf16)\[([\d,]+)\]", text)
    return max(np.prod([int(size) for size in shape.split(",")]) for shape in shapes)


@pytest.mark.parametrize("window", [None, 24])
def test_no_compiled_array_holds_all_scores(window):
    length = 512
    assert largest_tensor(in_blocks(16), length, window) < length**2 / 8
    assert largest_tensor(DENSE, length, window) >= 4 * length**2


def test_a_dynamic_batch_runs_compiled_and_not():
    random = np.random.default_rng(0)
    tensors = inputs(random, 20, windows=3)
    expected = DENSE(*tensors, scale=SCALE)
    for compiled in (True, False):
        specs = [tf.TensorSpec([None, *x.shape[1:]]) for x in tensors]
        run = tf.function(lambda *tensors: in_blocks(8)(*tensors, scale=SCALE), specs, jit_compile=compiled)
        np.testing.assert_allclose(run(*tensors), expected, atol=1e-5)


@pytest.mark.parametrize("block", [0, -8, 4, 12])
def test_blocks_are_multiples_of_eight(block):
    with pytest.raises(ConfigError, match=rf"attention\.block_size must be a multiple of 8, at least 8, not {block}"):
        AttentionConfig(block_size=block)


def test_the_attributes_are_the_config_s():
    attention = in_blocks(64)
    assert (attention.use_flash_attention, attention.block_size) == (True, 64)
    assert (DENSE.use_flash_attention, DENSE.block_size) == (False, 512)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(2, 8, 6), (2, 8, 6), (2, 8, 6)], {}, r"must be \[B, T, heads, head_dim\] each, not \(2, 8, 6\)"),
        ([(2, 8, 3, 6), (2, 8, 2, 6), (2, 8, 2, 6)], {}, "query heads must be a multiple of key heads, not 3 and 2"),
        ([(2, 8, 4, 6), (2, 9, 2, 6), (2, 9, 2, 6)], {}, r"the same length and head_dim.* \(2, 9, 2, 6\)"),
        ([(2, 8, 4, 6), (2, 8, 2, 6), (2, 8, 1, 6)], {}, "key and value the same heads"),
        ([(2, 8, 4, 6), (3, 8, 2, 6), (3, 8, 2, 6)], {}, "as many windows each"),
        ([(2, None, 4, 6), (2, None, 2, 6), (2, None, 2, 6)], {}, "static, not .*: pad the windows to one length"),
        ([(2, 8, 4, 6)] * 3, {"padding_mask": (2, 9)}, r"padding_mask must be \[B, T\], here \(2, 8\), not \(2, 9\)"),
        ([(2, 8, 4, 6)] * 3, {"segment_ids": (8,)}, r"segment_ids must be \[B, T\], here \(2, 8\), not \(8,\)"),
        ([(2, 8, 4, 6)] * 3, {"sliding_window": 0}, "sliding_window must be at least 1 or none, not 0"),
        ([(2, 8, 4, 6)] * 3, {"logit_soft_cap": 0.0}, r"logit_soft_cap must be above 0 or none, not 0\.0"),
    ],
)
@pytest.mark.parametrize("attention", [DENSE, in_blocks(8)], ids=["dense", "tiles"])
def test_what_cannot_work_is_told(attention, shapes, options, message):
    @tf.function
    def run(*tensors):
        masks = {name: tf.ones(value, tf.int32) if isinstance(value, tuple) else value for name, value in options.items()}
        return attention(*tensors, scale=1.0, **masks)

    with pytest.raises(ConfigError, match=message):
        run.get_concrete_function(*(tf.TensorSpec(shape) for shape in shapes))


def test_mixed_dtypes_are_told():
    query, key, value = inputs(np.random.default_rng(0), 8)
    with pytest.raises(ConfigError, match="must have one dtype, not float32, bfloat16 and float32"):
        DENSE(query, tf.cast(key, tf.bfloat16), value, scale=1.0)
