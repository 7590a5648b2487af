"""What flows through a decoder block of KerasHub's backbone, part by part."""

from typing import Any, NamedTuple

import keras
import keras_hub
import tensorflow as tf


class BlockActivations(NamedTuple):
    """The stations of one block, in the compute dtype; N tokens a window.

    Attributes:
      entering: [B, N, D], the residual stream, which the first norm reads.
      attention_input: [B, N, D], that norm's output.
      heads: [B, N, heads, head_dim], what each query head has gathered, before the output projection.
      attention: [B, N, D], after the projection; the post-attention norm reads it where there is one.
      attention_output: [B, N, D], what attention adds to the stream.
      between: [B, N, D], the stream after attention.
      feedforward_input: [B, N, D], the second norm's output.
      neurons: [B, N, F], after the gate.
      feedforward: [B, N, D], after the second projection.
      feedforward_output: [B, N, D], what the feed-forward layer adds to the stream.
      leaving: [B, N, D], the stream after the block.
    """

    entering: tf.Tensor
    attention_input: tf.Tensor
    heads: tf.Tensor
    attention: tf.Tensor
    attention_output: tf.Tensor
    between: tf.Tensor
    feedforward_input: tf.Tensor
    neurons: tf.Tensor
    feedforward: tf.Tensor
    feedforward_output: tf.Tensor
    leaving: tf.Tensor


def embedded(backbone: keras_hub.models.Gemma3Backbone, token_ids: tf.Tensor, rows: tf.Tensor | None = None) -> tf.Tensor:
    """What enters the first block: int32 [B, N] to [B, N, D] in the compute dtype, multiplied by the square root of D.

    `rows` are the tokens' rows of the embedding, [B, N, D], where they have been looked up already.
    """
    x = backbone.token_embedding(token_ids) if rows is None else tf.cast(rows, backbone.compute_dtype)
    return x * keras.ops.cast(keras.ops.sqrt(backbone.hidden_dim), x.dtype)


def query_and_key(attention: Any, normed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Queries [B, N, heads, head_dim] and keys [B, N, kv_heads, head_dim] of the normed states [B, N, D], normed and rotated."""
    query, key = attention.query_dense(normed), attention.key_dense(normed)
    if attention.use_query_key_norm:
        query, key = attention.query_norm(query), attention.key_norm(key)
    return attention.rope_layer(query, start_index=0), attention.rope_layer(key, start_index=0)


def attention_mask(block: Any, normed: tf.Tensor, padding_mask: tf.Tensor) -> tf.Tensor:
    """Where the queries of a block's attention may look, without its sliding window: not 0 at keys that are seen, [B, N, N].

    By the method of the class: the block's own may be replaced (`efficient_attention`).
    """
    return type(block)._compute_attention_mask(block, normed, padding_mask, None, None, 0)


def block_activations(block: Any, entering: tf.Tensor, padding_mask: tf.Tensor) -> BlockActivations:
    """Runs one `Gemma3DecoderBlock` by its own layers, in its own order.

    Args:
      block: one of `backbone.transformer_layers`.
      entering: [B, N, D].
      padding_mask: int32 [B, N], 1 at tokens.
    """
    attention_input, heads = gathered_by_heads(block, entering, padding_mask)
    attention, attention_output = projected_heads(block, heads)
    between = entering + attention_output
    feedforward_input, neurons = active_neurons(block, between)
    feedforward, feedforward_output = projected_neurons(block, neurons)
    return BlockActivations(
        entering=entering,
        attention_input=attention_input,
        heads=heads,
        attention=attention,
        attention_output=attention_output,
        between=between,
        feedforward_input=feedforward_input,
        neurons=neurons,
        feedforward=feedforward,
        feedforward_output=feedforward_output,
        leaving=feedforward_output + between,
    )


def gathered_by_heads(block: Any, entering: tf.Tensor, padding_mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first norm's output, and what each head gathers: the `attention_input` and `heads` of `BlockActivations`."""
    attention = block.attention
    attention_input = block.pre_attention_norm(entering)
    mask = attention_mask(block, attention_input, padding_mask)
    query, key = query_and_key(attention, attention_input)
    return attention_input, attention._compute_attention(query, key, attention.value_dense(attention_input), mask)


def projected_heads(block: Any, heads: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The `attention` and `attention_output` of `BlockActivations`."""
    attention = block.attention.output_dense(heads)
    return attention, block.post_attention_norm(attention) if block.use_post_attention_norm else attention


def active_neurons(block: Any, between: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The second norm's output, and what it makes of the neurons: the `feedforward_input` and `neurons` of `BlockActivations`."""
    feedforward_input = block.pre_ffw_norm(between)
    gate = keras.activations.gelu(block.gating_ffw(feedforward_input), approximate=True)
    return feedforward_input, gate * block.gating_ffw_2(feedforward_input)


def projected_neurons(block: Any, neurons: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The `feedforward` and `feedforward_output` of `BlockActivations`."""
    feedforward = block.ffw_linear(neurons)
    return feedforward, block.post_ffw_norm(feedforward) if block.use_post_ffw_norm else feedforward
