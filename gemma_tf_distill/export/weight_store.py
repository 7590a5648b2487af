"""The weights inside a SavedModel: float32, or one byte each and a scale where training left them on a lattice."""

import tensorflow as tf

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.apply import quantized_weights


class WeightStore(tf.Module):
    """A model's weights as variables, which SavedModel stores as they are.

    A matrix with a scheme is its codes (int8 or float8_e4m3fn, 4-bit integers a byte each as well, since TensorFlow packs none) and its
    float32 scales; all else is float32. Each read multiplies codes and scales out, which takes as long as some tokens do: a process that
    stays calls `unpack` once, and holds float32 from then on.
    """

    def __init__(self, gemma: Gemma, quantization: QuantizationConfig | None = None):
        """Copies the weights.

        Args:
          gemma: the model; to be quantised it lies on its lattices already, or it is rounded to them.
          quantization: with a scheme; none: all is float32.

        Raises:
          ConfigError: as of `quantized_weights`.
          WeightsError: likewise.
        """
        super().__init__()
        stored = {} if quantization is None else quantized_weights(gemma, quantization)
        # All of them, not only the trainable ones: SavedModel drops what is not tracked without a word.
        self._codes = {name: tf.Variable(weight.codes, trainable=False) for name, weight in stored.items()}
        self._scales = {name: tf.Variable(weight.scales, trainable=False) for name, weight in stored.items()}
        self._schemes = {name: weight.scheme for name, weight in stored.items()}
        # Empty, and saved so, until `unpack` fills them.
        self._unpacked = {
            name: tf.Variable(tf.zeros([0] * weight.codes.ndim), trainable=False, shape=[None] * weight.codes.ndim)
            for name, weight in stored.items()
        }
        self._others = {name: tf.Variable(value, trainable=False) for name, value in weights_of(gemma).items() if name not in stored}

    def read(self) -> dict[str, tf.Tensor]:
        """All weights by the names of `gemma.functional.weights_of`, float32; those with a scheme are those of the lattice, to the bit."""
        weights = {name: tf.convert_to_tensor(variable) for name, variable in self._others.items()}
        if self._codes:
            is_unpacked = tf.size(next(iter(self._unpacked.values()))) > 0
            packed = tf.cond(
                is_unpacked, lambda: {name: tf.convert_to_tensor(v) for name, v in self._unpacked.items()}, self._multiplied_out
            )
            weights |= {name: tf.ensure_shape(value, self._codes[name].shape) for name, value in packed.items()}
        return weights

    def unpack(self) -> None:
        """Multiplies codes and scales out, for all reads that follow."""
        for name, value in self._multiplied_out().items():
            self._unpacked[name].assign(value)

    def _multiplied_out(self) -> dict[str, tf.Tensor]:
        return {name: self._schemes[name].dequantize(tf.cast(codes, tf.float32), self._scales[name]) for name, codes in self._codes.items()}
