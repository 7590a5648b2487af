"""Decoding as one TensorFlow graph: prefill once, then a loop of single tokens over a key-value cache."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from gemma_tf_distill.export.names import PREFILL_PIECE
from gemma_tf_distill.export.sampling import Choice, most_probable
from gemma_tf_distill.gemma.functional import Cache, GemmaShape, empty_cache, hidden_states, logits

_NOTHING = -1


def completions(
    shape: GemmaShape,
    weights: Mapping[str, tf.Tensor],
    prompts: tf.RaggedTensor,
    max_new_tokens: int | tf.Tensor,
    stops: Sequence[int],
    choose: Choice = most_probable,
) -> tf.RaggedTensor:
    """The next token, again and again.

    Rows are independent: a row's greedy completion does not depend on the others in the batch.

    Args:
      shape: the model's shape.
      weights: its weights (see `gemma.functional.weights_of`).
      prompts: int32 [B, (length)], at least one token each, which should be `<bos>`.
      max_new_tokens: at least 1.
      stops: ids that end a completion.
      choose: the next token from the scores of all words.

    Returns:
      int32 [B, (new tokens)], without the token that ended it.
    """
    tokens, left_padding, pieces = _left_padded(prompts)
    batch, length = tf.shape(tokens)[0], tf.shape(tokens)[1]
    piece = length // pieces
    cache = empty_cache(shape, batch, length + max_new_tokens)

    def forward(tokens: tf.Tensor, first_slot: tf.Tensor, cache: Cache) -> tuple[tf.Tensor, Cache]:
        slots = tf.range(first_slot, first_slot + tf.shape(tokens)[1])
        hidden, cache = hidden_states(shape, weights, tokens, cache, slots=slots, left_padding=left_padding)
        return hidden[:, -1], cache

    def prefill(index: tf.Tensor, _: tf.Tensor, cache: Cache) -> tuple[tf.Tensor, tf.Tensor, Cache]:
        last, cache = forward(tokens[:, index * piece : (index + 1) * piece], index * piece, cache)
        return index + 1, last, cache

    cache_shapes = tuple((keys.shape, values.shape) for keys, values in cache)
    _, last, cache = tf.while_loop(
        lambda index, *_: index < pieces,
        prefill,
        (tf.constant(0), tf.zeros([batch, shape.hidden_dim]), cache),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, shape.hidden_dim]), cache_shapes),
    )

    def following(last: tf.Tensor, index: tf.Tensor, running: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        token = choose(logits(shape, weights, last), index)
        return token, tf.logical_and(running, tf.reduce_all(token[:, tf.newaxis] != tf.constant(stops, tf.int32), axis=-1))

    def write(found: tf.Tensor, index: tf.Tensor, token: tf.Tensor, running: tf.Tensor) -> tf.Tensor:
        places = tf.stack([tf.range(batch), tf.fill([batch], index)], axis=-1)
        return tf.tensor_scatter_nd_update(found, places, tf.where(running, token, _NOTHING))

    def decode(
        index: tf.Tensor, token: tf.Tensor, running: tf.Tensor, found: tf.Tensor, cache: Cache
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, Cache]:
        last, cache = forward(token[:, tf.newaxis], length + index - 1, cache)
        token, running = following(last, index, running)
        return index + 1, token, running, write(found, index, token, running), cache

    token, running = following(last, tf.constant(0), tf.ones([batch], tf.bool))
    found = write(tf.fill([batch, max_new_tokens], _NOTHING), tf.constant(0), token, running)
    rows = tf.TensorShape([None])
    _, _, _, found, _ = tf.while_loop(
        lambda index, token, running, *_: tf.logical_and(index < max_new_tokens, tf.reduce_any(running)),
        decode,
        (tf.constant(1), token, running, found, cache),
        shape_invariants=(tf.TensorShape([]), rows, rows, tf.TensorShape([None, None]), cache_shapes),
    )
    return tf.ragged.boolean_mask(found, found != _NOTHING)


def _left_padded(prompts: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Prompts of unequal length, moved to end together.

    Returns:
      int32 [B, length]; int32 [B], the padding at each row's left; int32 [], the number of equal pieces to read it in.
    """
    lengths = tf.cast(prompts.row_lengths(), tf.int32)
    longest = tf.maximum(tf.reduce_max(lengths), 1)
    pieces = -(-longest // PREFILL_PIECE)
    length = -(-longest // pieces) * pieces
    padding = length - lengths
    columns = tf.maximum(tf.range(length)[tf.newaxis] - padding[:, tf.newaxis], 0)
    return tf.gather(prompts.to_tensor(), columns, batch_dims=1), padding, pieces
