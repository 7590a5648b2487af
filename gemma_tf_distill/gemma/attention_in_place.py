"""`EfficientAttention` inside KerasHub's backbone, for the time of a forward pass."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras_hub
import numpy as np
import tensorflow as tf

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.activations import query_and_key
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.replacing import replaced


@contextlib.contextmanager
def efficient_attention(backbone: keras_hub.models.Gemma3Backbone, attention: EfficientAttention | None) -> Iterator[None]:
    """In this context a backbone computes its attention by `attention`, and makes no mask [B, N, N] either.

    Projections, norms and rotations stay the layers' own, with all that is done to them (`ModelQuantization.forward`). At tokens the
    results are KerasHub's; at padding they may differ where a local layer's query sees nothing but padding: here it gathers 0, there
    the mean of everything. Calls with a cache or with images are KerasHub's as before. To be entered by one thread at a time.

    Args:
      backbone: a causal text model.
      attention: without `use_flash_attention`, or none: KerasHub's own attention, nothing changes.

    Raises:
      ConfigError: for a backbone that is not causal or has dropout in its attention, which tiles have not.
    """
    if attention is None or not attention.use_flash_attention:
        yield
        return
    if backbone.use_bidirectional_attention or backbone.dropout:
        raise ConfigError(
            f"attention in blocks is causal and without dropout, but this backbone has use_bidirectional_attention "
            f"{backbone.use_bidirectional_attention} and dropout {backbone.dropout}: set attention.use_flash_attention=false"
        )
    with contextlib.ExitStack() as stack:
        for block in backbone.transformer_layers:
            mask = functools.partial(_padding_or_mask, block._compute_attention_mask)
            stack.enter_context(replaced(block, "_compute_attention_mask", mask))
            call = functools.partial(_call, block.attention, attention, block.attention.call)
            stack.enter_context(replaced(block.attention, "call", call))
        yield


def _padding_or_mask(
    former: Any, x: tf.Tensor, padding_mask: tf.Tensor | None, vision_mask: tf.Tensor | None, cache: Any, cache_update_index: Any
) -> tf.Tensor:
    """[B, N], 1 at tokens, which is all that tiles need; KerasHub's mask of three axes for what is computed as before."""
    if cache is not None or vision_mask is not None:
        return former(x, padding_mask, vision_mask, cache, cache_update_index)
    return tf.ones(tf.shape(x)[:2], tf.int32) if padding_mask is None else padding_mask


def _call(layer: Any, attention: EfficientAttention, former: Any, x: tf.Tensor, attention_mask: tf.Tensor, **others: Any) -> Any:
    """`CachedGemma3Attention.call` for a padding mask."""
    if attention_mask.shape.rank == 3:
        return former(x, attention_mask=attention_mask, **others)
    query, key = query_and_key(layer, x)
    normalizer = layer.head_dim if layer.query_head_dim_normalize else layer.hidden_dim // layer.num_query_heads
    gathered = attention(
        query,
        key,
        layer.value_dense(x),
        scale=1 / np.sqrt(normalizer),
        sliding_window=layer.sliding_window_size if layer.use_sliding_window_attention else None,
        logit_soft_cap=layer.logit_soft_cap,
        padding_mask=attention_mask,
    )
    return layer.output_dense(gathered)
