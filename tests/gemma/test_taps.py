"""The forward pass with taps, held to KerasHub's own backbone and attention."""

import re

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.gemma.taps import forward, visible_keys

LENGTH, PADDED_FROM = 24, 20


@pytest.fixture(scope="module")
def inputs():
    """Two windows longer than the sliding window of 16; the second ends in padding."""
    ids = np.random.default_rng(1).integers(4, 400, (2, LENGTH))
    ids[1, PADDED_FROM:] = 0
    return {"token_ids": tf.constant(ids, tf.int32), "padding_mask": tf.constant(ids != 0, tf.int32)}


def test_without_taps_it_is_the_backbone_to_the_bit(tiny_teacher, inputs):
    tapped = forward(tiny_teacher.backbone, inputs)
    np.testing.assert_array_equal(tapped.states, tiny_teacher.backbone(inputs))
    assert tapped.hidden_states == tapped.attention_maps == {}


def test_taps_and_scales_of_one_change_no_bit(tiny_teacher, inputs):
    tapped = forward(tiny_teacher.backbone, inputs, hidden_states=(0, 6), attention_maps=(5,), layer_scales=tf.ones([7, 2]))
    np.testing.assert_array_equal(tapped.states, tiny_teacher.backbone(inputs))
    assert list(tapped.hidden_states) == [0, 6]
    assert list(tapped.attention_maps) == [5]


def test_mixed_precision_is_the_backbone_to_the_bit(tiny_teacher, inputs):
    config = tiny_teacher.backbone.get_config() | {"dtype": "mixed_bfloat16", "name": "mixed"}
    backbone = keras_hub.models.Gemma3Backbone.from_config(config)
    tapped = forward(backbone, inputs, hidden_states=(1,), attention_maps=(1,))
    assert tapped.states.dtype == tapped.hidden_states[1].dtype == tf.bfloat16
    assert tapped.attention_maps[1].dtype == tf.float32
    np.testing.assert_array_equal(tf.cast(tapped.states, tf.float32), tf.cast(backbone(inputs), tf.float32))


def test_hidden_states_are_the_outputs_of_the_blocks(tiny_teacher, inputs):
    backbone = tiny_teacher.backbone
    outputs = [block.output for block in backbone.transformer_layers]
    expected = keras.Model(backbone.inputs, outputs)(inputs)
    tapped = forward(backbone, inputs, hidden_states=range(7))
    for index, states in enumerate(expected):
        np.testing.assert_array_equal(tapped.hidden_states[index], states)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_attention_maps_are_what_the_attention_uses(tiny_teacher, inputs, soft_cap, monkeypatch):
    backbone = tiny_teacher.backbone
    for block in backbone.transformer_layers:
        monkeypatch.setattr(block.attention, "logit_soft_cap", soft_cap)
    tapped = forward(backbone, inputs, hidden_states=(3, 4), attention_maps=(4, 5))
    for index in (4, 5):  # A local layer and the global one.
        block = backbone.transformer_layers[index]
        attention = block.attention
        normed = block.pre_attention_norm(tapped.hidden_states[index - 1])
        mask = block._compute_attention_mask(normed, inputs["padding_mask"], None, None, 0)
        expected = attention(normed, attention_mask=mask)
        values = tf.repeat(attention.value_dense(normed), 2, axis=2)  # Two query heads share each of the two value heads.
        ours = attention.output_dense(tf.einsum("bhts,bshd->bthd", tapped.attention_maps[index], values))
        # Float32 sums of 24 terms of size 1, in another order.
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("layer", [4, 5])
def test_maps_look_at_the_visible_keys_and_nowhere_else(tiny_teacher, inputs, layer):
    maps = forward(tiny_teacher.backbone, inputs, attention_maps=(layer,), last=layer).attention_maps[layer].numpy()
    visible = visible_keys(tiny_teacher.backbone, layer, inputs["padding_mask"]).numpy()
    assert maps.shape == (2, 4, LENGTH, LENGTH)
    # The logits of the tiny teacher spread by about 1, so that no visible key underflows.
    np.testing.assert_array_equal(maps > 0, np.broadcast_to(visible[:, None], maps.shape))
    np.testing.assert_allclose(maps.sum(-1), 1.0, rtol=1e-5)


def test_visible_keys_by_hand(tiny_teacher, monkeypatch):
    backbone = tiny_teacher.backbone
    monkeypatch.setattr(backbone.transformer_layers[0].attention, "sliding_window_size", 2)
    mask = tf.constant([[1, 1, 1, 0]])
    np.testing.assert_array_equal(visible_keys(backbone, 0, mask)[0], [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]])
    np.testing.assert_array_equal(visible_keys(backbone, 5, mask)[0], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]])


def test_it_stops_after_the_last_layer_that_is_wanted(tiny_teacher, inputs, monkeypatch):
    whole = forward(tiny_teacher.backbone, inputs, hidden_states=(2,))

    def fail(*args, **kwargs):
        raise AssertionError("a layer after the last one was run")

    monkeypatch.setattr(tiny_teacher.backbone.transformer_layers[3], "call", fail)
    tapped = forward(tiny_teacher.backbone, inputs, hidden_states=(2,), last=2)
    assert tapped.states is None
    np.testing.assert_array_equal(tapped.hidden_states[2], whole.hidden_states[2])


def test_layer_scales_scale_what_a_layer_adds_to_each_window(tiny_teacher, inputs):
    plain = forward(tiny_teacher.backbone, inputs, hidden_states=(2, 3)).hidden_states
    scales = np.ones([7, 2], np.float32)
    scales[3] = 0.0, 1.25
    scaled = forward(tiny_teacher.backbone, inputs, hidden_states=(3,), layer_scales=tf.constant(scales), last=3).hidden_states[3]
    np.testing.assert_array_equal(scaled[0], plain[2][0])
    np.testing.assert_allclose(scaled[1], plain[2][1] + 1.25 * (plain[3][1] - plain[2][1]), atol=1e-5)


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ({"hidden_states": (7,)}, "layer 7 is not run: choose among 0 to 6, of 7 layers in all"),
        ({"attention_maps": (-1,)}, "layer -1 is not run"),
        ({"hidden_states": (3,), "last": 2}, "layer 3 is not run: choose among 0 to 2, of 7 layers in all"),
        ({"last": 7}, "layer 7 is not run"),
    ],
)
def test_layers_that_are_not_run_are_refused(tiny_teacher, inputs, taps, message):
    with pytest.raises(ValueError, match=message):
        forward(tiny_teacher.backbone, inputs, **taps)


def test_xla_computes_a_tapped_map_once(tiny_teacher, inputs):
    @tf.function(jit_compile=True)
    def run(inputs):
        tapped = forward(tiny_teacher.backbone, inputs, hidden_states=(0,), attention_maps=(0,), last=0)
        return tapped.hidden_states, tapped.attention_maps

    hlo = run.experimental_get_compiler_ir(inputs)(stage="optimized_hlo")
    # q, k, v, scores, weighted values, output, and the three of the feed-forward part: a second q, k and scores are not there.
    assert len(re.findall(r"= \S+ dot\(", hlo)) == 9
    eager = forward(tiny_teacher.backbone, inputs, hidden_states=(0,), attention_maps=(0,), last=0)
    states, maps = run(inputs)
    # XLA fuses and reorders float32 sums.
    np.testing.assert_allclose(states[0], eager.hidden_states[0], atol=1e-4)
    np.testing.assert_allclose(maps[0], eager.attention_maps[0], atol=1e-5)
