"""How far a student's next-token distribution is from its teacher's, in nats, token by token, in float32.

Each divergence compares two distributions over the same m events, given as log-probabilities [..., m]. What the events are is the
target's business (`transfer.supports`): all words, the teacher's k best and one bucket for the others, or words that were drawn.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig
from gemma_tf_distill.transfer.supports import at_words, with_tail

Divergence = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def forward_kl(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """KL(teacher || student): the student must cover all that the teacher finds likely (Hinton et al. 2015).

    Args:
      teacher: float32 [..., m], log-probabilities in nats.
      student: float32 [..., m].

    Returns:
      float32 [...], at least 0 up to rounding, 0 where both are equal.
    """
    return tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1)


def reverse_kl(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """KL(student || teacher): the student must stay where the teacher is likely (Gu et al. 2024, MiniLLM, eq. 2); as `forward_kl`."""
    return forward_kl(student, teacher)


def jensen_shannon(teacher: tf.Tensor, student: tf.Tensor, beta: float = 0.5) -> tf.Tensor:
    """`beta KL(teacher || m) + (1 - beta) KL(student || m)` with `m = beta teacher + (1 - beta) student`; as `forward_kl`.

    The generalised Jensen-Shannon divergence (Agarwal et al. 2024, "On-Policy Distillation of Language Models", section 2). Symmetric
    at `beta` 0.5, and there at most log 2.

    Raises:
      ValueError: if `beta` is not between 0 and 1, both excluded.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta must be between 0 and 1, both excluded, not {beta!r}: use forward_kl or reverse_kl for the ends")
    mixture = tf.math.log(beta) + teacher, tf.math.log(1 - beta) + student
    middle = tf.reduce_logsumexp(tf.stack(mixture), axis=0)
    return beta * forward_kl(teacher, middle) + (1 - beta) * forward_kl(student, middle)


def total_variation(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """Half the sum of the absolute differences of the probabilities (Wen et al. 2023, f-distill, section 3); between 0 and 1."""
    return 0.5 * tf.reduce_sum(tf.abs(tf.exp(teacher) - tf.exp(student)), axis=-1)


def make_divergence(config: DistillationConfig) -> Divergence:
    """The divergence that a config names, a function of the teacher's and the student's log-probabilities."""
    by_name: dict[str, Divergence] = {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jensen_shannon": functools.partial(jensen_shannon, beta=config.beta),
        "total_variation": total_variation,
    }
    return by_name[config.divergence]


def top_k_forward_kl(student_log_probs: tf.Tensor, teacher_ids: tf.Tensor, teacher_log_probs: tf.Tensor) -> tf.Tensor:
    """KL(teacher || student) over the teacher's k words and one bucket for all other words: what models are measured by.

    Merging the other words into a bucket can only lower a divergence (data processing inequality), so that this is a lower
    bound of the dense KL, and equal to it where k is the whole vocabulary.

    Args:
      student_log_probs: float32 [..., V], log-softmax of the student's logits.
      teacher_ids: int32 [..., k].
      teacher_log_probs: float32 [..., k], in nats.

    Returns:
      float32 [...], in nats.
    """
    return forward_kl(with_tail(teacher_log_probs), with_tail(at_words(student_log_probs, teacher_ids)))
