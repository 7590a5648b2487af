"""Gemma's attention between projections: grouped-query, causal, local or global; in tiles or all at once."""

import tensorflow as tf

from gemma_tf_distill.config import AttentionConfig
from gemma_tf_distill.config.checking import check
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.tiled_attention import tiled_attention

# The label of keys that are padding; no document has it.
_PADDING = tf.int32.min
# KerasHub's score of keys that are not seen.
_UNSEEN = -1e9


class EfficientAttention:
    """Attention whose memory grows with the length of a window, and of a local layer its time too (`gemma.tiled_attention`).

    Attributes:
      use_flash_attention: whether it is computed in blocks; else all scores are there at once, as in KerasHub.
      block_size: queries and keys in a block.
    """

    def __init__(self, config: AttentionConfig):
        """Args:
        config: whether in blocks, and in which.
        """
        self.use_flash_attention = config.use_flash_attention
        self.block_size = config.block_size

    def __call__(
        self,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        *,
        scale: float,
        sliding_window: int | None = None,
        logit_soft_cap: float | None = None,
        padding_mask: tf.Tensor | None = None,
        segment_ids: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """What each query gathers of the values it sees: those of its own token and the ones before, as windows and masks allow.

        Args:
          query: [B, T, H, D] of any float dtype; T, H and D are static. Any T: it is padded to whole blocks inside.
          key: [B, T, K, D]; query heads `h` with the same `h // (H / K)` share a head of it (arXiv:2305.13245).
          value: [B, T, K, D].
          scale: queries are multiplied by it.
          sliding_window: keys that a query sees, its own included; none: all before it.
          logit_soft_cap: scores are bent to `cap * tanh(scores / cap)`.
          padding_mask: [B, T], of whole numbers or bool, 0 (or false) at tokens that no query may see.
          segment_ids: int32 [B, T], the document of each token in packed windows: tokens of different documents do not see each other.

        Returns:
          [B, T, H, D] in the dtype of `query`; 0 where a query sees nothing.

        Raises:
          ConfigError: for shapes or dtypes that do not belong together, lengths that are not static, and for windows below 1 and
            soft caps of 0 and below.
        """
        _check(query, key, value, padding_mask, segment_ids)
        check(sliding_window is None or sliding_window >= 1, "sliding_window", "at least 1 or none", sliding_window)
        check(logit_soft_cap is None or logit_soft_cap > 0, "logit_soft_cap", "above 0 or none", logit_soft_cap)
        query *= tf.cast(scale, query.dtype)
        labels = _labels(padding_mask, segment_ids)
        if not self.use_flash_attention:
            return _dense(query, key, value, sliding_window, logit_soft_cap, labels)
        block = min(self.block_size, -(-query.shape[1] // 8) * 8)
        return tiled_attention(query, key, value, block=block, window=sliding_window, soft_cap=logit_soft_cap, labels=labels)


def _check(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, padding_mask: tf.Tensor | None, segment_ids: tf.Tensor | None) -> None:
    shapes = " and ".join(str(x.shape) for x in (query, key, value))
    if not query.shape.rank == key.shape.rank == value.shape.rank == 4:
        raise ConfigError(f"query, key and value must be [B, T, heads, head_dim] each, not {shapes}")
    if None in query.shape[1:] or None in key.shape[1:]:
        raise ConfigError(f"attention needs lengths, heads and head_dim that are static, not {shapes}: pad the windows to one length")
    if not (key.shape.is_compatible_with(value.shape) and key.shape[1] == query.shape[1] and key.shape[3] == query.shape[3]):
        raise ConfigError(f"query, key and value must have the same length and head_dim, and key and value the same heads, not {shapes}")
    if not query.shape[:1].is_compatible_with(key.shape[:1]):
        raise ConfigError(f"query, key and value must have as many windows each, not {shapes}")
    if query.shape[2] % key.shape[2]:
        raise ConfigError(f"query heads must be a multiple of key heads, not {query.shape[2]} and {key.shape[2]}")
    if not query.dtype == key.dtype == value.dtype:
        raise ConfigError(f"query, key and value must have one dtype, not {query.dtype.name}, {key.dtype.name} and {value.dtype.name}")
    for name, x in (("padding_mask", padding_mask), ("segment_ids", segment_ids)):
        if x is not None and not query.shape[:2].is_compatible_with(x.shape):
            raise ConfigError(f"{name} must be [B, T], here {query.shape[:2]}, not {x.shape}")


def _labels(padding_mask: tf.Tensor | None, segment_ids: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor] | None:
    """Int32 [B, T] of queries and of keys, equal where a query may see a key; none: everywhere."""
    if padding_mask is None:
        return None if segment_ids is None else (segment_ids, segment_ids)
    of_queries = tf.zeros_like(padding_mask, tf.int32) if segment_ids is None else tf.cast(segment_ids, tf.int32)
    return of_queries, tf.where(tf.cast(padding_mask, tf.bool), of_queries, _PADDING)


def _dense(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    window: int | None,
    soft_cap: float | None,
    labels: tuple[tf.Tensor, tf.Tensor] | None,
) -> tf.Tensor:
    """The same as `tiled_attention`, in KerasHub's operations and their order."""
    length, heads, groups = query.shape[1], key.shape[2], query.shape[2] // key.shape[2]
    scores = tf.einsum("btkgh,bskh->bkgts", tf.reshape(query, [-1, length, heads, groups, query.shape[3]]), key)
    if soft_cap is not None:
        scores = tf.tanh(scores / soft_cap) * soft_cap
    places = tf.range(length)
    distance = places[:, None] - places[None, :]
    seen = (distance >= 0) if window is None else tf.logical_and(distance >= 0, distance < window)
    seen = seen[None]
    if labels is not None:
        seen = tf.logical_and(seen, labels[0][:, :, None] == labels[1][:, None, :])
    weights = tf.nn.softmax(tf.where(seen[:, None, None], tf.cast(scores, tf.float32), _UNSEEN))
    gathered = tf.einsum("bkgts,bskh->btkgh", tf.cast(weights, value.dtype), value)
    gathered = tf.reshape(gathered, tf.shape(query))
    return tf.where(tf.reduce_any(seen, axis=-1)[:, :, None, None], gathered, tf.zeros_like(gathered))
