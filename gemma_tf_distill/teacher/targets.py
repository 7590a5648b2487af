"""What a teacher says of each token: its k most probable words, and the probability of the label."""

from typing import NamedTuple

import tensorflow as tf

from gemma_tf_distill.data.examples import labels_and_mask, model_inputs
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.model import Gemma


class Targets(NamedTuple):
    """Targets of windows [B, T] with N = T - 1 predictions each.

    Attributes:
      teacher_ids: int32 [B, N, k], best first.
      teacher_log_probs: float32 [B, N, k], nats, at the scorer's temperature.
      teacher_label_log_prob: float32 [B, N], nats, at temperature 1.
    """

    teacher_ids: tf.Tensor
    teacher_log_probs: tf.Tensor
    teacher_label_log_prob: tf.Tensor


class TargetScorer:
    """Scores windows with a teacher, in chunks of tokens, so that [tokens, vocabulary] never exists."""

    def __init__(self, teacher: Gemma, *, top_k: int, temperature: float = 1.0, chunk: int = 512):
        """Args:
          teacher: over the vocabulary of the windows.
          top_k: words kept for each token.
          temperature: softens the stored distribution.
          chunk: tokens whose logits exist at a time.

        Raises:
          ConfigError: if `top_k` is larger than the vocabulary.
        """
        vocabulary = teacher.backbone.vocabulary_size
        if top_k > vocabulary:
            raise ConfigError(f"distillation.top_k is {top_k}, but the vocabulary has {vocabulary} words: choose at most as many")
        self._teacher = teacher
        self._top_k = top_k
        self._temperature = temperature
        self._chunk = chunk
        self._compiled = tf.function(self.score, jit_compile=True)

    def score(self, tokens: tf.Tensor) -> Targets:
        """Targets of windows int32 [B, T] of static shape; called within a `tf.function`, or through `__call__`."""
        hidden = self._teacher.backbone(model_inputs(tokens), training=False)
        labels, _ = labels_and_mask(tokens)
        batch, predictions = labels.shape
        total = batch * predictions
        chunk = min(self._chunk, total)
        chunks = -(-total // chunk)
        padding = chunks * chunk - total
        states = tf.pad(tf.reshape(hidden, [total, hidden.shape[-1]]), [[0, padding], [0, 0]])
        states = tf.reshape(states, [chunks, chunk, hidden.shape[-1]])
        flat_labels = tf.reshape(tf.pad(tf.reshape(labels, [total]), [[0, padding]]), [chunks, chunk])

        def score_chunk(states_and_labels: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            states, labels = states_and_labels
            logits = tf.cast(self._teacher.backbone.token_embedding(states, reverse=True), tf.float32)
            log_probs = tf.nn.log_softmax(logits)
            softened = log_probs if self._temperature == 1 else tf.nn.log_softmax(logits / self._temperature)
            best, ids = tf.math.top_k(softened, k=self._top_k)
            return ids, best, tf.gather(log_probs, labels, batch_dims=1)

        ids, best, label = tf.map_fn(
            score_chunk, (states, flat_labels), fn_output_signature=(tf.int32, tf.float32, tf.float32), parallel_iterations=1
        )
        shape = [batch, predictions, self._top_k]
        return Targets(
            tf.reshape(tf.reshape(ids, [chunks * chunk, self._top_k])[:total], shape),
            tf.reshape(tf.reshape(best, [chunks * chunk, self._top_k])[:total], shape),
            tf.reshape(tf.reshape(label, [chunks * chunk])[:total], [batch, predictions]),
        )

    def __call__(self, tokens: tf.Tensor) -> Targets:
        """The same, compiled by XLA."""
        return self._compiled(tokens)
