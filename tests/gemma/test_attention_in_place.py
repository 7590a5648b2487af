"""KerasHub's backbone with its attention in blocks, held to the backbone as it is."""

import re

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill import AttentionConfig, EfficientAttention, ModelQuantization, QuantizationConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.attention_in_place import efficient_attention
from gemma_tf_distill.gemma.taps import forward
from gemma_tf_distill.teacher.targets import SampledTargetScorer, TargetScorer

LENGTH = 41
IN_BLOCKS = EfficientAttention(AttentionConfig(use_flash_attention=True, block_size=8))
AT_ONCE = EfficientAttention(AttentionConfig())


@pytest.fixture(scope="module")
def inputs():
    """Windows longer than the sliding window of 16 and no multiple of a block; padded on the left, on the right, and not."""
    ids = np.random.default_rng(1).integers(4, 400, (3, LENGTH))
    ids[0, :6] = ids[1, -20:] = 0
    return {"token_ids": tf.constant(ids, tf.int32), "padding_mask": tf.constant(ids != 0, tf.int32)}


def states_and_gradients(backbone, inputs, attention):
    """Final states at tokens, 0 at padding, and the gradient of all variables."""
    with tf.GradientTape() as tape, efficient_attention(backbone, attention):
        states = tf.cast(backbone(inputs), tf.float32) * tf.cast(inputs["padding_mask"], tf.float32)[:, :, None]
        loss = tf.reduce_sum(tf.sin(states))
    gradients = tape.gradient(loss, [variable.value for variable in backbone.trainable_variables])
    return [states, *(tf.convert_to_tensor(gradient) for gradient in gradients)]


def distances(found, expected):
    """Of each tensor the largest difference, as a share of the largest entry."""
    pairs = ((tf.cast(a, tf.float32), tf.cast(b, tf.float32)) for a, b in zip(found, expected, strict=True))
    return np.array([np.abs(a - b).max() / np.abs(b).max() for a, b in pairs])


@pytest.mark.parametrize(("kv_heads", "soft_cap"), [(4, None), (2, 2.0), (1, None)])
def test_a_whole_backbone_and_its_gradients_are_kerashub_s(make_gemma, inputs, kv_heads, soft_cap):
    # The sixth layer is global.
    backbone = make_gemma(num_layers=6, num_key_value_heads=kv_heads, attention_logit_soft_cap=soft_cap).backbone
    found, expected = (states_and_gradients(backbone, inputs, attention) for attention in (IN_BLOCKS, None))
    # Float32 sums in another order, six layers on top of each other.
    assert distances(found, expected).max() < 2e-5


def test_in_mixed_precision_it_is_as_near_to_float32_as_kerashub_s(make_gemma, inputs):
    exact = make_gemma(num_layers=6).backbone
    mixed = keras_hub.models.Gemma3Backbone.from_config(exact.get_config() | {"dtype": "mixed_bfloat16", "name": "mixed"})
    mixed.set_weights(exact.get_weights())
    expected = states_and_gradients(exact, inputs, None)
    ours, kerashub_s = (distances(states_and_gradients(mixed, inputs, attention), expected) for attention in (IN_BLOCKS, None))
    assert ours.mean() < 1.2 * kerashub_s.mean()
    assert ours.max() < 0.2


def test_no_compiled_array_holds_all_scores_or_a_mask(make_gemma):
    backbone, length = make_gemma(num_layers=1).backbone, 512
    spec = tf.TensorSpec([1, length], tf.int32)

    def entries(attention):
        @tf.function(jit_compile=True)
        def run(token_ids, padding_mask):
            with tf.GradientTape() as tape, efficient_attention(backbone, attention):
                loss = tf.reduce_sum(backbone({"token_ids": token_ids, "padding_mask": padding_mask}))
            return tape.gradient(loss, [variable.value for variable in backbone.trainable_variables])

        text = run.experimental_get_compiler_ir(spec, spec)(stage="optimized_hlo")
        return max(np.prod([int(size) for size in shape.split(",")]) for shape in re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", text))

    assert entries(IN_BLOCKS) < length**2 / 4
    assert entries(None) >= 4 * length**2


@pytest.mark.parametrize("attention", [None, AT_ONCE])
def test_without_blocks_nothing_changes_to_the_bit(tiny_teacher, inputs, attention):
    expected = tiny_teacher.backbone(inputs)
    with efficient_attention(tiny_teacher.backbone, attention):
        np.testing.assert_array_equal(tiny_teacher.backbone(inputs), expected)


def test_nothing_of_it_stays_behind(tiny_teacher, inputs):
    backbone = tiny_teacher.backbone
    expected = backbone(inputs)
    with efficient_attention(backbone, IN_BLOCKS):
        with efficient_attention(backbone, IN_BLOCKS):
            pass
        assert np.any(backbone(inputs) != expected)
    with pytest.raises(RuntimeError), efficient_attention(backbone, IN_BLOCKS):
        raise RuntimeError
    np.testing.assert_array_equal(backbone(inputs), expected)
    assert "call" not in vars(backbone.transformer_layers[0].attention)
    assert "_compute_attention_mask" not in vars(backbone.transformer_layers[0])


def test_taps_see_the_same_maps(tiny_teacher, inputs):
    expected = forward(tiny_teacher.backbone, inputs, hidden_states=(1, 6), attention_maps=(0, 5))
    with efficient_attention(tiny_teacher.backbone, IN_BLOCKS):
        found = forward(tiny_teacher.backbone, inputs, hidden_states=(1, 6), attention_maps=(0, 5))
    # What enters the first layer is the same; what enters the sixth went through five layers in blocks.
    np.testing.assert_array_equal(found.attention_maps[0], expected.attention_maps[0])
    tokens = tf.cast(inputs["padding_mask"], tf.bool)
    rows = (tf.boolean_mask(tf.transpose(maps, [0, 2, 1, 3]), tokens) for maps in (found.attention_maps[5], expected.attention_maps[5]))
    np.testing.assert_allclose(*rows, atol=1e-5)
    for layer in (1, 6):
        pair = (tf.boolean_mask(tapped.hidden_states[layer], tokens) for tapped in (found, expected))
        assert distances([next(pair)], [next(pair)]).max() < 1e-5


def test_a_quantised_student_quantises_the_same_products(make_gemma, inputs):
    model = make_gemma()
    quantization = ModelQuantization(model, QuantizationConfig(scheme="int4_block32"))
    plain = model.backbone(inputs)
    with quantization.forward(training=False):
        expected = model.backbone(inputs)
        with efficient_attention(model.backbone, IN_BLOCKS):
            inside = model.backbone(inputs)
    with efficient_attention(model.backbone, IN_BLOCKS), quantization.forward(training=False):
        outside = model.backbone(inputs)
    tokens = tf.cast(inputs["padding_mask"], tf.bool)
    for found in (inside, outside):
        difference = np.abs(tf.boolean_mask(found - expected, tokens))
        # Inputs of products are rounded to integers: where the last bit differs, one of them may become its neighbour.
        assert np.median(difference) < 1e-5
        assert np.median(np.abs(tf.boolean_mask(found - plain, tokens))) > 1e-3


def test_weights_given_by_a_scope_are_the_ones_that_count(make_gemma, inputs):
    backbone, other = make_gemma().backbone, make_gemma(seed=1).backbone
    mapping = [(mine, theirs.value) for mine, theirs in zip(backbone.trainable_variables, other.trainable_variables, strict=True)]
    with keras.StatelessScope(mapping), efficient_attention(backbone, IN_BLOCKS):
        found = backbone(inputs)
    with efficient_attention(other, IN_BLOCKS):
        np.testing.assert_array_equal(found, other(inputs))


def test_what_has_a_cache_is_computed_as_before(tiny_teacher):
    block = tiny_teacher.backbone.transformer_layers[0]
    x, cache = tf.random.normal([2, 3, 32]), [tf.random.normal([2, 10, 2, 8])] * 2
    arguments = {"padding_mask": tf.ones([2, 10], tf.int32), "cache": cache, "cache_update_index": 4}
    expected, _ = block(x, **arguments)
    with efficient_attention(tiny_teacher.backbone, IN_BLOCKS):
        found, _ = block(x, **arguments)
    np.testing.assert_array_equal(found, expected)


def test_a_block_without_a_padding_mask_sees_all_before(tiny_teacher):
    block, x = tiny_teacher.backbone.transformer_layers[5], tf.random.normal([2, 20, 32])
    expected = block(x)
    with efficient_attention(tiny_teacher.backbone, IN_BLOCKS):
        np.testing.assert_allclose(block(x), expected, atol=1e-5)


@pytest.mark.slow
def test_a_teacher_s_targets_are_the_same(make_gemma, inputs):
    # Two layers: XLA takes its time for each.
    tokens, teacher = inputs["token_ids"][1:], make_gemma()
    scores = [TargetScorer(teacher, top_k=5, attention=attention)(tokens) for attention in (IN_BLOCKS, None)]
    uniforms = tf.random.uniform([2, LENGTH - 1])
    draws = [SampledTargetScorer(teacher, draws=4, attention=attention)(tokens, uniforms) for attention in (IN_BLOCKS, None)]
    counts = inputs["padding_mask"][1:, :-1, None] == 1
    for found, expected in (scores, draws):
        # A word that is about as probable as another may change places with it.
        assert np.mean(found.teacher_ids == expected.teacher_ids, where=counts) > 0.98
        np.testing.assert_allclose(
            found.teacher_label_log_prob * counts[..., 0], expected.teacher_label_log_prob * counts[..., 0], atol=1e-4
        )


@pytest.mark.parametrize("change", [{"use_bidirectional_attention": True}, {"dropout": 0.1}])
def test_what_tiles_cannot_compute_is_told(make_gemma, change):
    backbone = make_gemma(num_layers=1, **change).backbone
    with pytest.raises(ConfigError, match=r"causal and without dropout.*: set attention\.use_flash_attention=false"):
        efficient_attention(backbone, IN_BLOCKS).__enter__()
    with efficient_attention(backbone, AT_ONCE):
        pass


def test_what_xla_is_given_does_not_grow_with_the_window(tiny_teacher):
    def program_size(length):
        @tf.function(jit_compile=True)
        def states(ids):
            inputs = {"token_ids": ids, "padding_mask": tf.cast(ids != 0, tf.int32)}
            with efficient_attention(tiny_teacher.backbone, EfficientAttention(AttentionConfig(use_flash_attention=True))):
                return forward(tiny_teacher.backbone, inputs, checkpointing=True).states

        spec = tf.TensorSpec([1, length], tf.int32)
        return len(states.experimental_get_compiler_ir(spec)(stage="hlo_serialized"))

    # Written out for each of the layers, RoPE's tables alone would double it.
    assert program_size(1024) < 1.2 * program_size(64)
