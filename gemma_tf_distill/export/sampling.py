"""How the next token is chosen from a model's scores, in a graph."""

from collections.abc import Callable

import tensorflow as tf

# Logits float32 [B, V] and the number of the new token, int32 [], to ids int32 [B].
Choice = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# Words that are ranked for top-k and top-p. Sorting 262,144 of them would take as long as the model does.
RANKED = 1024


def most_probable(logits: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The greedy choice."""
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


def sampled(temperature: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor, seed: tf.Tensor) -> Choice:
    """A choice at random, the same for the same seed.

    Args:
      temperature: float32 [], by which logits are divided; at 0 (or below) the choice is greedy.
      top_k: int32 [], only the best `top_k` words may be drawn; 0 (or less): all, and more than 1,024 are 1,024.
      top_p: float32 [], of those, only the smallest set of best words whose probabilities add up to `top_p` (Holtzman et al. 2020, "The
        Curious Case of Neural Text Degeneration", section 3.1), at least one and at most 1,024; 1 (or above): all.
      seed: int32 [].
    """

    def choose(logits: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        key = tf.stack([seed, index])
        logits = logits / tf.maximum(temperature, 1e-6)

        def from_all() -> tf.Tensor:
            return tf.random.stateless_categorical(logits, 1, key, dtype=tf.int32)[:, 0]

        def from_ranked() -> tf.Tensor:
            ranked, ids = tf.math.top_k(logits, k=min(RANKED, logits.shape[-1]))
            width = tf.shape(ranked)[-1]
            within_k = tf.range(width) < tf.where(top_k > 0, top_k, width)
            # Of the words that top-k leaves; without it of all words, also of those that are not ranked.
            total = tf.where(
                top_k > 0,
                tf.reduce_logsumexp(tf.where(within_k, ranked, ranked.dtype.min), axis=-1, keepdims=True),
                tf.reduce_logsumexp(logits, axis=-1, keepdims=True),
            )
            before = tf.cumsum(tf.exp(ranked - total), axis=-1, exclusive=True)
            kept = within_k & ((before < top_p) | (tf.range(width) == 0))
            place = tf.random.stateless_categorical(tf.where(kept, ranked, ranked.dtype.min), 1, key, dtype=tf.int32)
            return tf.gather(ids, place, batch_dims=1)[:, 0]

        def at_random() -> tf.Tensor:
            return tf.cond((top_k > 0) | (top_p < 1), from_ranked, from_all)

        return tf.cond(temperature > 0, at_random, lambda: most_probable(logits, index))

    return choose
