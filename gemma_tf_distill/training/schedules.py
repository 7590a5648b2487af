"""Numbers that change with training."""

import math

import tensorflow as tf

from gemma_tf_distill.config import Schedule


def value_at(value: float | Schedule, progress: tf.Tensor) -> float | tf.Tensor:
    """A config's number, or a schedule's value.

    Args:
      value: a number, which stays as it is, or a schedule.
      progress: float32 scalar, 0 at the first step and 1 at the last.

    Returns:
      The number, or a float32 scalar between the schedule's start and end.
    """
    if not isinstance(value, Schedule):
        return value
    share = progress if value.shape == "linear" else (1 - tf.cos(math.pi * progress)) / 2
    return value.start + (value.end - value.start) * share
