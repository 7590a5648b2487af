"""One forward pass of KerasHub's backbone that also hands out what lies between its layers.

It runs the backbone's own layers one after the other, so that without taps it equals `backbone(inputs)` to the bit.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import keras
import keras_hub
import tensorflow as tf

from gemma_tf_distill.gemma.activations import attention_mask, embedded, query_and_key
from gemma_tf_distill.gemma.checkpointing import recomputed
from gemma_tf_distill.gemma.rotations import shared_rotations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tapped:
    """What a forward pass gives.

    Attributes:
      states: [B, N, D] after the final norm, what the head multiplies, in the compute dtype; none where the pass stopped before.
      hidden_states: layer to [B, N, D], the residual stream after that layer, in the compute dtype.
      attention_maps: layer to float32 [B, heads, N, N], where each query (third axis) looks. Rows of tokens sum to 1.
    """

    states: tf.Tensor | None
    hidden_states: dict[int, tf.Tensor]
    attention_maps: dict[int, tf.Tensor]


def forward(
    backbone: keras_hub.models.Gemma3Backbone,
    inputs: Mapping[str, tf.Tensor],
    *,
    hidden_states: Collection[int] = (),
    attention_maps: Collection[int] = (),
    layer_scales: tf.Tensor | None = None,
    last: int | None = None,
    rows: tf.Tensor | None = None,
    checkpointing: bool = False,
) -> Tapped:
    """Runs a causal text backbone. KerasHub's own dropout, which no Gemma 3 has, stays off.

    Args:
      backbone: the model.
      inputs: `token_ids` int32 [B, N] and `padding_mask` int32 [B, N], 1 at tokens, as `data.examples.model_inputs` gives them.
      hidden_states: the layers after which the residual stream is wanted.
      attention_maps: the layers whose attention is wanted.
      layer_scales: float32 [layers, B], a factor on what each layer adds to the residual stream of each window (stochastic depth:
        Huang et al. 2016, section 3): 0 leaves the layer out, 1 changes nothing, to the bit. None: 1 everywhere.
      last: the last layer to run, where the final states are not wanted; none: all layers and the final norm.
      rows: [B, N, D], the tokens' rows of the embedding (`tied_embedding`); none: they are looked up here.
      checkpointing: keep only what enters each block for the gradient, and compute the rest again (`gemma.checkpointing`).

    Raises:
      ValueError: if a layer is named that is not run.
    """
    layers = backbone.transformer_layers
    end = len(layers) if last is None else last + 1
    for layer in (*hidden_states, *attention_maps, end - 1):
        if not 0 <= layer < min(end, len(layers)):
            raise ValueError(f"layer {layer} is not run: choose among 0 to {min(end, len(layers)) - 1}, of {len(layers)} layers in all")

    x = embedded(backbone, inputs["token_ids"], rows)
    states, maps = {}, {}
    padding_mask = inputs["padding_mask"]
    with shared_rotations(backbone, padding_mask):
        for index, layer in enumerate(layers[:end]):
            if index in attention_maps:
                maps[index] = _attention_map(layer, x, padding_mask)
            following = recomputed(layer, x, padding_mask) if checkpointing else layer(x, padding_mask=padding_mask)
            x = following if layer_scales is None else _scaled(x, following, layer_scales[index])
            if index in hidden_states:
                states[index] = x
    return Tapped(states=backbone.layer_norm(x) if last is None else None, hidden_states=states, attention_maps=maps)


def visible_keys(backbone: keras_hub.models.Gemma3Backbone, layer: int, padding_mask: tf.Tensor) -> tf.Tensor:
    """The keys that each query of a layer may see: tokens up to its own, and of a local layer only those inside the window.

    Args:
      backbone: the model.
      layer: from 0.
      padding_mask: int32 [B, N], 1 at tokens.

    Returns:
      bool [B, N, N], true where the query (second axis) may see the key (third axis).
    """
    positions = tf.range(tf.shape(padding_mask)[1])
    distance = positions[:, None] - positions[None, :]
    seen = distance >= 0
    attention = backbone.transformer_layers[layer].attention
    if attention.use_sliding_window_attention:
        seen = tf.logical_and(seen, distance < attention.sliding_window_size)
    return tf.logical_and(seen, padding_mask[:, None, :] != 0)


def _scaled(x: tf.Tensor, following: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    # `x + scale * (following - x)`, written so that 0 and 1 are exact, and in float32: scales near 1 are coarse in bfloat16.
    scale = scale[:, None, None]
    return tf.cast(scale * tf.cast(following, tf.float32) + (1 - scale) * tf.cast(x, tf.float32), x.dtype)


def _attention_map(layer: Any, x: tf.Tensor, padding_mask: tf.Tensor) -> tf.Tensor:
    """The softmax inside a decoder block for its input [B, N, D]: float32 [B, heads, N, N].

    The block computes the same again for itself. XLA sees that these are the same operations on the same values, in the same order
    as KerasHub's, and computes them once; what a map costs is its memory and, where it is trained through, its gradient. Beside
    attention in blocks it also costs its time.
    """
    attention = layer.attention
    normed = layer.pre_attention_norm(x)
    mask = attention_mask(layer, normed, padding_mask)
    if attention.use_sliding_window_attention:
        mask = attention._mask_sliding_window(mask)
    query, key = query_and_key(attention, normed)
    normalizer = attention.head_dim if attention.query_head_dim_normalize else attention.hidden_dim // attention.num_query_heads
    query *= keras.ops.cast(1 / keras.ops.sqrt(normalizer), query.dtype)

    batch, length = tf.shape(x)[0], tf.shape(x)[1]
    key_heads, groups = attention.num_key_value_heads, attention.num_key_value_groups
    query = keras.ops.reshape(query, (*query.shape[:2], key_heads, groups, attention.head_dim))
    scores = keras.ops.einsum("btkgh,bskh->bkgts", query, key)
    if attention.logit_soft_cap is not None:
        scores = keras.ops.tanh(scores / attention.logit_soft_cap) * attention.logit_soft_cap
    probabilities = attention.softmax(scores, mask=mask[:, None, None, :, :])
    return tf.reshape(probabilities, [batch, key_heads * groups, length, length])
