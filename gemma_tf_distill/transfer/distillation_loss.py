"""What the trainer minimises for each token: soft targets from the teacher, hard targets from the text."""

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig
from gemma_tf_distill.transfer.divergences import make_divergence
from gemma_tf_distill.transfer.supports import at_words, renormalised, with_tail
from gemma_tf_distill.transfer.vocabulary_loss import Targets


def hard_target_terms(logits: tf.Tensor, targets: Targets) -> dict[str, tf.Tensor]:
    """Cross-entropy alone, as the control run trains: float32 [C, V] and `labels` int32 [C] to `loss` and `hard_loss` [C]."""
    hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets["labels"], logits=logits)
    return {"loss": hard, "hard_loss": hard}


class SoftAndHardTargets:
    """`alpha * T^2 * divergence(teacher, student) + (1 - alpha) * cross-entropy`, both in nats (Hinton et al. 2015, section 2).

    The divergence compares both distributions at temperature T; targets are scored at that temperature.
    """

    def __init__(self, config: DistillationConfig):
        self._alpha = config.alpha
        self._temperature = config.temperature
        self._divergence = make_divergence(config)
        self._events = with_tail if config.tail == "bucket" else renormalised

    def __call__(self, logits: tf.Tensor, targets: Targets) -> dict[str, tf.Tensor]:
        """Terms of each token.

        Args:
          logits: float32 [C, V].
          targets: `labels` int32 [C], `teacher_ids` int32 [C, k], `teacher_log_probs` float32 [C, k] at temperature T.

        Returns:
          `loss`, `soft_loss` (the divergence without its T^2) and `hard_loss`, float32 [C].
        """
        log_probs = tf.nn.log_softmax(logits)
        hard = -tf.gather(log_probs, targets["labels"], batch_dims=1)
        softened = log_probs if self._temperature == 1 else tf.nn.log_softmax(logits / self._temperature)
        teacher, student = targets["teacher_log_probs"], at_words(softened, targets["teacher_ids"])
        soft = self._divergence(self._events(teacher), self._events(student))
        loss = self._alpha * self._temperature**2 * soft + (1 - self._alpha) * hard
        return {"loss": loss, "soft_loss": soft, "hard_loss": hard}
