"""The head: final hidden states and the tied embedding give the logits."""

import tensorflow as tf


def soft_capped(logits: tf.Tensor, cap: float | None) -> tf.Tensor:
    """`cap * tanh(logits / cap)` (Gemma Team 2024, "Gemma 2", section 2.1), or the logits themselves where there is no cap."""
    return logits if cap is None else cap * tf.tanh(logits / cap)


def head_logits(states: tf.Tensor, embedding: tf.Tensor, logit_soft_cap: float | None = None) -> tf.Tensor:
    """Logits float32 [C, V] of states [C, D], multiplied by the embedding [V, D] in the states' dtype."""
    return soft_capped(tf.cast(tf.matmul(states, tf.cast(embedding, states.dtype), transpose_b=True), tf.float32), logit_soft_cap)
