"""Rounding to narrower floats by arithmetic in float32.

XLA may leave out a cast to a narrower float and back (`xla_allow_excess_precision`), and it has no FP8 arithmetic on most devices. Here
the step between neighbours is a power of two, so that every operation but the rounding is exact, compiled or not.
"""

import dataclasses

import tensorflow as tf

_EXPONENT = 0x7F800000


@dataclasses.dataclass(frozen=True)
class FloatFormat:
    """A narrow float.

    Attributes:
      mantissa_bits: stored bits of the mantissa.
      least_normal: below it the numbers are evenly spread (subnormal).
      largest: the largest finite number.
    """

    mantissa_bits: int
    least_normal: float
    largest: float


# Micikevicius et al. 2022, "FP8 Formats for Deep Learning", table 1.
E4M3 = FloatFormat(3, 2.0**-6, 448.0)
E5M2 = FloatFormat(2, 2.0**-14, 57344.0)


def round_to(x: tf.Tensor, target: FloatFormat) -> tf.Tensor:
    """The nearest number of a format, ties to even, and its largest for everything beyond; float32 to float32 of the same shape."""
    return tf.clip_by_value(round_mantissa(x, target.mantissa_bits, target.least_normal), -target.largest, target.largest)


def round_mantissa(x: tf.Tensor, bits: int, least_normal: float) -> tf.Tensor:
    """Float32 with `bits` stored bits of mantissa, ties to even; below `least_normal` the step stays what it is there."""
    power = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32), _EXPONENT), tf.float32)
    step = tf.maximum(power, least_normal) * 2.0**-bits
    return tf.round(x / step) * step
