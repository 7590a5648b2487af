"""The lattices that weights are stored on, as the runtime stores them.

A scheme says which numbers a weight may take: codes times a scale, one for each output channel or for each block of inputs. Everything
here is a pure function of weights, the same bits eagerly and compiled by XLA. A scale is made of the largest weight under it, which
therefore has the largest code: whoever measures the weights again (LiteRT's quantizer does) finds the same scale and the same codes,
and quantising twice changes nothing. With scale s, `fl` rounding to float32 and Q = 7, 127 or 448, the one subtle step is
fl(fl(Q s) / Q) = s: it could only fail where Q s lies halfway between two floats, and no quotient fl(a / Q) has such an s, since
128 a = 127 s + r (8 a = 7 s + r; units in the last place of s) would need a remainder |r| of 64 (4), which is more than half of Q.
"""

import abc
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from gemma_tf_distill.config.checking import check
from gemma_tf_distill.errors import ConfigError, WeightsError
from gemma_tf_distill.quantization.rounding import E4M3, round_mantissa

# ai-edge-quantizer's bound on the largest weight of a channel, so that a scale is never 0.
_LEAST_PEAK = 1e-9
# Of float16, in which LiteRT keeps the scales of blocks; below, bfloat16's numbers are not in it.
_LEAST_BLOCK_SCALE = 2.0**-14
_LARGEST_BLOCK_SCALE = 65280.0
_BFLOAT16_BITS = 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme(abc.ABC):
    """A lattice. Weights have any shape; `axis` is that of the inputs, over which a product sums, and all others index outputs.

    Attributes:
      name: as in the config.
      largest: the largest code; codes are symmetric.
      code_bits: bits of a stored code.
      block: inputs that share a scale; none: all of an output channel do.
      scale_bytes: of a stored scale.
    """

    name: str
    largest: float
    code_bits: int
    block: int | None = None
    scale_bytes: int = 4

    @abc.abstractmethod
    def nearest_code(self, x: tf.Tensor) -> tf.Tensor:
        """The nearest code of x, float32, ties to even, without regard to the largest."""

    @abc.abstractmethod
    def stored(self, codes: np.ndarray) -> np.ndarray:
        """Codes float32 in the dtype that holds them."""

    def bytes_for(self, outputs: int, inputs: int) -> float:
        """What a matrix takes, codes and scales."""
        return outputs * (inputs * self.code_bits / 8 + (inputs // self.block if self.block else 1) * self.scale_bytes)

    def scale_shape(self, shape: tuple[int, ...], axis: int = -1) -> tuple[int, ...]:
        """That of the scales of weights of a shape: the input axis becomes the blocks in it, or 1.

        Raises ConfigError, with the blocks that there are for it, where blocks don't divide the inputs.
        """
        axis %= len(shape)
        if self.block and shape[axis] % self.block:
            fitting = ", ".join(four_bit_schemes(shape[axis]))
            raise ConfigError(f"{self.name} cuts inputs into blocks of {self.block}, but there are {shape[axis]}: use {fitting}")
        return (*shape[:axis], shape[axis] // self.block if self.block else 1, *shape[axis + 1 :])

    def scales(self, weights: tf.Tensor, axis: int = -1) -> tf.Tensor:
        """Float32 scales, of `scale_shape`: the largest weight's absolute value over the largest code, as it is stored.

        Per channel that is a float32 quotient. Of blocks it is rounded to bfloat16 and kept in float16 (so does ai-edge-quantizer 0.10,
        `tensor_zp_scale_from_min_max`), at least 2^-14, since XNNPACK takes no scale of 0.
        """
        grouped, axis = self._grouped(weights, axis)
        return self.scales_of_peaks(tf.reduce_max(tf.abs(grouped), axis=axis + 1))

    def scales_of_peaks(self, peaks: tf.Tensor) -> tf.Tensor:
        """The same, from the largest absolute values."""
        peaks = tf.maximum(peaks, _LEAST_PEAK)
        # XLA would multiply by the reciprocal of a constant, and miss the float32 quotient in more than half of all cases.
        quotient = peaks / tf.maximum(peaks * 0.0, self.largest)
        if self.block is None:
            return quotient
        return tf.clip_by_value(round_mantissa(quotient, _BFLOAT16_BITS, _LEAST_BLOCK_SCALE), _LEAST_BLOCK_SCALE, _LARGEST_BLOCK_SCALE)

    def frozen_scales(self, weights: tf.Tensor, scales: tf.Tensor, axis: int = -1) -> tf.Tensor:
        """`scales` for as long as the largest weight under each still has the largest code, and a new scale where it has not."""
        grouped, axis = self._grouped(weights, axis)
        peaks = tf.reduce_max(tf.abs(grouped), axis=axis + 1)
        return tf.where(self.nearest_code(peaks / scales) == self.largest, scales, self.scales_of_peaks(peaks))

    def codes(self, weights: tf.Tensor, scales: tf.Tensor | None = None, axis: int = -1) -> tf.Tensor:
        """Float32 codes of the weights' shape. `scales` are the weights' own unless given."""
        scales = self.scales(weights, axis) if scales is None else scales
        grouped, axis = self._grouped(weights, axis)
        codes = self.nearest_code(grouped / tf.expand_dims(scales, axis + 1))
        return tf.reshape(tf.clip_by_value(codes, -self.largest, self.largest), weights.shape)

    def dequantize(self, codes: tf.Tensor, scales: tf.Tensor, axis: int = -1) -> tf.Tensor:
        """Codes times scales, float32."""
        grouped, axis = self._grouped(codes, axis)
        return tf.reshape(grouped * tf.expand_dims(scales, axis + 1), codes.shape)

    def fake_quantize(self, weights: tf.Tensor, scales: tf.Tensor | None = None, axis: int = -1) -> tf.Tensor:
        """The nearest weights on the lattice, float32 of the same shape.

        With the weights' own scales none is further away than half a step: s / 2 for integers. A scale that was rounded down cuts
        nothing off either: by a bfloat16's 2^-8 at the most, it leaves the largest weight below 7.03 s.
        """
        scales = self.scales(weights, axis) if scales is None else scales
        return self.dequantize(self.codes(weights, scales, axis), scales, axis)

    def check_weights(self, name: str, weights: np.ndarray) -> None:
        """Raises WeightsError, with the weight's name, if some are inf or NaN, or too large for a stored scale."""
        bad = np.size(weights) - np.count_nonzero(np.isfinite(weights))
        if bad:
            raise WeightsError(f"{name} holds {bad} weights that are inf or NaN, of {np.size(weights)}: train with a lower learning rate")
        peak = float(np.max(np.abs(weights), initial=0.0))
        if self.block and peak > self.largest * _LARGEST_BLOCK_SCALE:
            raise WeightsError(
                f"{name} holds a weight of size {peak:.3g}, and a float16 scale of {self.name} reaches {_LARGEST_BLOCK_SCALE:g}"
            )

    def _grouped(self, weights: tf.Tensor, axis: int) -> tuple[tf.Tensor, int]:
        """[…, in, …] to […, blocks, block, …], and the blocks' axis counted from the first."""
        axis %= weights.shape.rank
        blocks, size = (weights.shape[axis] // self.block, self.block) if self.block else (1, weights.shape[axis])
        return tf.reshape(weights, [*weights.shape[:axis], blocks, size, *weights.shape[axis + 1 :]]), axis


class IntegerScheme(Scheme):
    """Whole numbers, -7 to 7 or -127 to 127."""

    def nearest_code(self, x: tf.Tensor) -> tf.Tensor:
        """The nearest whole number."""
        return tf.round(x)

    def stored(self, codes: np.ndarray) -> np.ndarray:
        """int8."""
        return codes.astype(np.int8)


class Float8Scheme(Scheme):
    """Micikevicius et al. 2022: 4 bits of exponent, 3 of mantissa, no infinity. A step grows with the number: it is 1/8 to 1/16 of it."""

    def nearest_code(self, x: tf.Tensor) -> tf.Tensor:
        """The nearest number with 3 bits of mantissa."""
        return round_mantissa(x, E4M3.mantissa_bits, E4M3.least_normal)

    def stored(self, codes: np.ndarray) -> np.ndarray:
        """float8_e4m3fn, one byte each."""
        dtype: Any = tf.dtypes.experimental.float8_e4m3fn.as_numpy_dtype
        return codes.astype(dtype)


_SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        IntegerScheme(name="int4_channel", largest=7.0, code_bits=4),
        *(IntegerScheme(name=f"int4_block{size}", largest=7.0, code_bits=4, block=size, scale_bytes=2) for size in (32, 64, 128, 256)),
        IntegerScheme(name="int8_channel", largest=127.0, code_bits=8),
        Float8Scheme(name="fp8_e4m3", largest=E4M3.largest, code_bits=8),
    )
}


def four_bit_schemes(inputs: int) -> list[str]:
    """The schemes of 4 bits that so many inputs can have, the whole channel first, then rising blocks."""
    return [scheme.name for scheme in _SCHEMES.values() if scheme.code_bits == 4 and inputs % (scheme.block or 1) == 0]


def get_scheme(name: str) -> Scheme:
    """The scheme of a name; raises ConfigError, which lists them, for any other."""
    check(name in _SCHEMES, "quantization scheme", f"one of {', '.join(_SCHEMES)}", name)
    return _SCHEMES[name]
