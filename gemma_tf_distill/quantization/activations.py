"""What a runtime's integer kernels make of what enters a product, token by token: pure functions on float32 [..., D]."""

import tensorflow as tf

_LEAST, _LARGEST = -128.0, 127.0


def per_token_int8(x: tf.Tensor) -> tf.Tensor:
    """Each token on 256 steps between its least and its largest value, with 0 among them exactly.

    As XNNPACK, which runs LiteRT's products on a CPU, quantises their inputs (`qd8`: `xnn_qd8_asymmetric_quantization_params` in its
    src/xnnpack/quantization.h, then `f32-qs8-vcvt`), in the same order of float32 operations. The zero point is taken from that end of
    the range where it rounds less.
    """
    least = tf.minimum(tf.reduce_min(x, axis=-1, keepdims=True), 0.0)
    largest = tf.maximum(tf.reduce_max(x, axis=-1, keepdims=True), 0.0)
    width = largest - least
    steps = tf.where(width > 0, (_LARGEST - _LEAST) / width, 1.0)
    below, above = least * steps, largest * steps
    zero_point = tf.where((_LEAST + below) + (_LARGEST + above) > 0, _LEAST - below, _LARGEST - above)
    zero_point = tf.round(tf.clip_by_value(zero_point, _LEAST, _LARGEST))
    return tf.clip_by_value(tf.round(x * steps), _LEAST - zero_point, _LARGEST - zero_point) * (1 / steps)


def per_token_symmetric_int8(x: tf.Tensor) -> tf.Tensor:
    """Each token on 255 steps, its largest absolute value the 127th: TFLite's own kernels without XNNPACK (`SymmetricQuantizeFloats`)."""
    largest = tf.reduce_max(tf.abs(x), axis=-1, keepdims=True)
    steps = tf.where(largest > 0, _LARGEST / largest, 1.0)
    return tf.clip_by_value(tf.round(x * steps), -_LARGEST, _LARGEST) * (1 / steps)
