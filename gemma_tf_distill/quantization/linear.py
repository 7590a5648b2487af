"""One product with quantised weights and inputs, as a Keras 3 layer."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from gemma_tf_distill.config.checking import check
from gemma_tf_distill.quantization.quantizers import ActivationQuantizer, Keras3Weights, LatticeQuantizer

_SCHEMES = {4: "int4_channel", 8: "int8_channel"}


class QuantizedLinear(keras.layers.Layer):
    """`x W^T` with W [out, in] on an integer lattice and x quantised: in training what the runtime will compute, with gradients to both.

    The same quantizers as in `ModelQuantization`; the weight that is trained stays in float32.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bits: int = 4,
        *,
        block: int | None = None,
        activations: str = "dynamic_int8",
        **kwargs: Any,
    ):
        """Args:
          in_features: D.
          out_features: rows of W.
          bits: of a weight, 4 or 8.
          block: inputs that share a scale, 32, 64, 128 or 256 with 4 bits; none: all of a row.
          activations: as of `ActivationQuantizer`.
          **kwargs: of `keras.layers.Layer`.

        Raises:
          ConfigError: for other bits or blocks, and for a block that does not divide `in_features`.
        """
        super().__init__(**kwargs)
        check(bits in _SCHEMES, "bits of QuantizedLinear", "4 or 8", bits)
        check(
            block is None or (bits == 4 and block in (32, 64, 128, 256)),
            "block of QuantizedLinear",
            "32, 64, 128 or 256, with 4 bits",
            block,
        )
        self.in_features = in_features
        self.out_features = out_features
        self.bits = bits
        self.block = block
        self.weight_quantizer = LatticeQuantizer(_SCHEMES[bits] if block is None else f"int4_block{block}")
        self.weight_quantizer.scheme.scale_shape((out_features, in_features))
        self.activation_quantizer = ActivationQuantizer(activations)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes W, for inputs [..., in_features], and what the quantizers keep."""
        shape = (self.out_features, self.in_features)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="glorot_uniform", dtype="float32", autocast=False)
        adapter = Keras3Weights(self)
        self._weight_variables = dict(self.weight_quantizer.build(shape, "kernel", adapter))
        self._activation_variables = dict(self.activation_quantizer.build(input_shape, "inputs", adapter))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[..., in] to [..., out], in the inputs' dtype. While not `training`, ranges stay."""
        inputs = self.activation_quantizer(inputs, bool(training), self._activation_variables)
        kernel = self.weight_quantizer(tf.convert_to_tensor(self.kernel), bool(training), self._weight_variables)
        return tf.einsum("...i,oi->...o", inputs, tf.cast(kernel, inputs.dtype))

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return super().get_config() | {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bits": self.bits,
            "block": self.block,
            "activations": self.activation_quantizer.mode,
        }
