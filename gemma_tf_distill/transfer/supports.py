"""The events that a divergence compares teacher and student on: all words, the teacher's best, or words that were drawn."""

import tensorflow as tf

# The log-probability that fills up a token which has fewer words than others: exp gives 0, and products with it stay finite.
NO_WORD = -1e9

# A tail below this is noise: float32 sums of probabilities are exact to about 1e-7, float16 targets to about 1e-4.
_LEAST_TAIL = 1e-6


def with_tail(log_probs: tf.Tensor) -> tf.Tensor:
    """Adds one event for everything else.

    Args:
      log_probs: float32 [..., k], log-probabilities in nats of k distinct words.

    Returns:
      float32 [..., k + 1]; the last is the log of one minus their sum, which is taken as at least 1e-6.
    """
    tail = tf.maximum(1.0 - tf.reduce_sum(tf.exp(log_probs), axis=-1, keepdims=True), _LEAST_TAIL)
    return tf.concat([log_probs, tf.math.log(tail)], axis=-1)


def renormalised(log_probs: tf.Tensor) -> tf.Tensor:
    """The distribution given that one of the k words comes: float32 [..., k] to [..., k]."""
    return tf.nn.log_softmax(log_probs)


def at_words(student_log_probs: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """The student's log-probabilities of a target's words: float32 [..., V] and int32 [..., k] to float32 [..., k]."""
    return tf.gather(student_log_probs, ids, batch_dims=ids.shape.rank - 1)
