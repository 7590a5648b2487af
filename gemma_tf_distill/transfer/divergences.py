"""How far a student's next-token distribution is from its teacher's, in nats, token by token, in float32."""

import tensorflow as tf

# A tail below this is noise: float32 sums of probabilities are exact to about 1e-7, float16 targets to about 1e-4.
_LEAST_TAIL = 1e-6


def tail_probability(log_probs: tf.Tensor) -> tf.Tensor:
    """The probability outside the given words.

    Args:
      log_probs: float32 [..., k], log-probabilities in nats of k distinct words.

    Returns:
      float32 [...], one minus their sum, at least 1e-6.
    """
    return tf.maximum(1.0 - tf.reduce_sum(tf.exp(log_probs), axis=-1), _LEAST_TAIL)


def top_k_forward_kl(student_log_probs: tf.Tensor, teacher_ids: tf.Tensor, teacher_log_probs: tf.Tensor) -> tf.Tensor:
    """KL(teacher || student) over the teacher's k words and one bucket for all other words.

    Merging the other words into a bucket can only lower a divergence (data processing inequality), so that this is a lower
    bound of the dense KL, and equal to it where k is the whole vocabulary.

    Args:
      student_log_probs: float32 [..., V], log-softmax of the student's logits.
      teacher_ids: int32 [..., k].
      teacher_log_probs: float32 [..., k], in nats.

    Returns:
      float32 [...], in nats.
    """
    student = tf.gather(student_log_probs, teacher_ids, batch_dims=teacher_ids.shape.rank - 1)
    listed = tf.reduce_sum(tf.exp(teacher_log_probs) * (teacher_log_probs - student), axis=-1)
    teacher_tail, student_tail = tail_probability(teacher_log_probs), tail_probability(student)
    return listed + teacher_tail * (tf.math.log(teacher_tail) - tf.math.log(student_tail))
