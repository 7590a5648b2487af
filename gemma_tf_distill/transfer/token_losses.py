"""What is minimised for each token, from its logits: soft targets from the teacher, hard targets from the text.

A token loss is what `vocabulary_loss` calls on a chunk of logits. It reads the targets that are there:

* `teacher_ids`, `teacher_log_probs`: words of the teacher's, the k best or some that were drawn;
* `teacher_states`: the live teacher's final states, whose logits are made here and forgotten with the chunk;
* `teacher_logits`: a teacher's logits, all of them.
"""

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, Schedule
from gemma_tf_distill.transfer.divergences import make_divergence
from gemma_tf_distill.transfer.head import head_logits
from gemma_tf_distill.transfer.supports import NO_WORD, at_words, renormalised, with_tail
from gemma_tf_distill.transfer.vocabulary_loss import Targets


def hard_target_terms(logits: tf.Tensor, targets: Targets) -> dict[str, tf.Tensor]:
    """Cross-entropy alone, as the control run trains: float32 [C, V] and `labels` int32 [C] to `loss` and `hard_loss` [C]."""
    hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets["labels"], logits=logits)
    return {"loss": hard, "hard_loss": hard}


class SoftAndHardTargets:
    """`alpha * T^2 * divergence(teacher, student) + (1 - alpha) * cross-entropy`, both in nats (Hinton et al. 2015, section 2).

    The divergence compares both distributions at temperature T. Where words were drawn from the teacher, it is the cross-entropy of
    the draws (Gemma Team 2025, section 2.2), which has the same gradient in expectation as the forward KL to the whole distribution.
    """

    def __init__(
        self,
        config: DistillationConfig,
        alpha: float | tf.Tensor,
        temperature: float | tf.Tensor,
        teacher_embedding: tf.Tensor | None = None,
        teacher_logit_soft_cap: float | None = None,
    ):
        """Args:
        config: which divergence, and on what.
        alpha: number or float32 scalar.
        temperature: number or float32 scalar.
        teacher_embedding: [V, Dt], which turns `teacher_states` into logits.
        teacher_logit_soft_cap: the teacher's, where it has one.
        """
        self._config = config
        self._alpha = alpha
        self._temperature = temperature
        self._divergence = make_divergence(config)
        # A tensor, taken here: a variable that is read in a function with a gradient of its own would be differentiated too.
        self._teacher_embedding = None if teacher_embedding is None else tf.stop_gradient(teacher_embedding)
        self._teacher_logit_soft_cap = teacher_logit_soft_cap

    def __call__(self, logits: tf.Tensor, targets: Targets) -> dict[str, tf.Tensor]:
        """Terms of each token.

        Args:
          logits: float32 [C, V].
          targets: `labels` int32 [C], and the teacher's: `teacher_ids` int32 [C, k] with `teacher_log_probs` float32 [C, k] (nats, at
            the stored temperature), or `teacher_states` [C, Dt], or `teacher_logits` float32 [C, V].

        Returns:
          `loss`, `soft_loss` (the divergence without its T^2) and `hard_loss`, float32 [C].
        """
        hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets["labels"], logits=logits)
        softened = logits if self._is_one(self._temperature) else logits / self._temperature
        soft = self._of_words(softened, targets) if "teacher_ids" in targets else self._of_all(softened, targets)
        loss = self._alpha * self._temperature**2 * soft + (1 - self._alpha) * hard
        return {"loss": loss, "soft_loss": soft, "hard_loss": hard}

    def _of_words(self, softened: tf.Tensor, targets: Targets) -> tf.Tensor:
        # One log-sum-exp and a few words of each row: the log-softmax of the whole row is never made.
        student = at_words(softened, targets["teacher_ids"]) - tf.reduce_logsumexp(softened, axis=-1, keepdims=True)
        teacher = targets["teacher_log_probs"]
        # Where a token has fewer words than others, the student has none either: they are in the tail.
        student = tf.where(teacher > NO_WORD / 2, student, NO_WORD)
        if self._config.targets == "sampled":
            return -tf.reduce_sum(tf.exp(teacher) * student, axis=-1)
        if isinstance(self._config.temperature, Schedule):  # Stored at temperature 1, and renormalised: see the config.
            teacher = teacher / self._temperature
        events = with_tail if self._config.tail == "bucket" else renormalised
        return self._divergence(events(teacher), events(student))

    def _of_all(self, softened: tf.Tensor, targets: Targets) -> tf.Tensor:
        if "teacher_logits" in targets:
            teacher = targets["teacher_logits"]
        else:
            teacher = head_logits(targets["teacher_states"], self._teacher_embedding, self._teacher_logit_soft_cap)
        if not self._is_one(self._temperature):
            teacher = teacher / self._temperature
        return self._divergence(tf.nn.log_softmax(tf.stop_gradient(teacher)), tf.nn.log_softmax(softened))

    @staticmethod
    def _is_one(temperature: float | tf.Tensor) -> bool:
        return not tf.is_tensor(temperature) and temperature == 1
