"""TF-MOT quantizers for the lattices of `schemes` and for what enters a product, and the adapter that lets them work with Keras 3.

A `Quantizer` makes its variables once (`build`) and is called with them. `training` says whether it may follow what it sees; while it is
false, ranges stay. Each works eagerly, in a `tf.function` and under XLA.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf
import tensorflow_model_optimization as tfmot

from gemma_tf_distill.config.checking import check
from gemma_tf_distill.quantization.activations import per_token_int8, per_token_symmetric_int8
from gemma_tf_distill.quantization.rounding import E4M3, E5M2, FloatFormat, round_to
from gemma_tf_distill.quantization.schemes import get_scheme

Quantizer: TypeAlias = tfmot.quantization.keras.quantizers.Quantizer
Variables = Mapping[str, tf.Variable]

# Of so many former calls the largest absolute value is expected in the next one.
_HISTORY = 16
# Below it a step, or a peak, counts as none.
_LEAST_STEP = 1e-9


class Keras3Weights:
    """What a TF-MOT quantizer sees as its layer: `add_weight` takes Keras 2's arguments, and the variables are a Keras 3 layer's."""

    def __init__(self, layer: keras.Layer):
        self._layer = layer

    def add_weight(self, name: str, initializer: Any, trainable: bool = False, shape: int | Sequence[int] | None = None) -> tf.Variable:
        """A float32 variable of the layer, as TensorFlow's own, to which TF-MOT assigns."""
        variable = self._layer.add_weight(
            name=name,
            shape=() if shape is None else (shape,) if isinstance(shape, int) else tuple(shape),
            dtype="float32",
            initializer=lambda shape, dtype: tf.cast(initializer(shape), dtype),
            trainable=trainable,
            # All replicas see the same weights, and one's activations stand for all.
            aggregation="only_first_replica",
        )
        return variable.value


class LatticeQuantizer(Quantizer):
    """Puts a weight on its scheme's lattice. Gradients pass straight through (Bengio et al. 2013, section 4): nothing is cut off.

    Scales follow the weight while `training` is true, which may be a boolean tensor. While it is false they stay, wherever the largest
    weight under one still has the largest code (`Scheme.frozen_scales`): every row or block reaches its largest code at all times.
    """

    def __init__(self, scheme: str, axis: int = -1):
        """Args:
          scheme: its name.
          axis: that of the inputs.

        Raises:
          ConfigError: for an unknown scheme.
        """
        self.scheme = get_scheme(scheme)
        self.axis = axis

    def build(self, tensor_shape: Sequence[int], name: str, layer: Any) -> Variables:
        """Makes `scales`: zeros, until the first call."""
        shape = self.scheme.scale_shape(tuple(tensor_shape), self.axis)
        return {"scales": layer.add_weight(name + "_scales", initializer=tf.zeros, trainable=False, shape=shape)}

    def track(self, inputs: tf.Tensor, training: bool | tf.Tensor, weights: Variables) -> None:
        """Only sets the scales."""
        scales = tf.convert_to_tensor(weights["scales"])
        frozen = self.scheme.frozen_scales(inputs, scales, self.axis)
        weights["scales"].assign(tf.where(training | (scales == 0), self.scheme.scales(inputs, self.axis), frozen))

    def quantize(self, inputs: tf.Tensor, weights: Variables) -> tf.Tensor:
        """Only puts a weight on the lattice of the scales that are set."""
        scales = tf.convert_to_tensor(weights["scales"])
        return straight_through(inputs, lambda values: self.scheme.fake_quantize(values, scales, self.axis))

    def __call__(self, inputs: tf.Tensor, training: bool | tf.Tensor, weights: Variables, **kwargs: Any) -> tf.Tensor:
        """Sets the scales and quantises by them."""
        self.track(inputs, training, weights)
        return self.quantize(inputs, weights)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"scheme": self.scheme.name, "axis": self.axis}


class ActivationQuantizer(Quantizer):
    """Quantises what enters a product, [..., D], and gives it back in its own dtype.

    * `dynamic_int8`: each token by its own range, as LiteRT's CPU kernels do it at run time.
    * `dynamic_int8_symmetric`: the same without a zero point.
    * `moving_average`, `last_value`: int8 in one range, that of the values seen while training (TF-MOT's own quantizers; the average
      begins at -6 to 6 and keeps 0.999 of itself a call). Beyond it values are cut off and have no gradient.
    * `learned`: int8 with one step that is trained (`LearnedStepQuantizer`).
    * `fp8`: E4M3 with delayed scaling (`DelayedFloat8Quantizer`).
    * `none`: nothing.
    """

    def __init__(self, mode: str = "dynamic_int8"):
        """Raises ConfigError for an unknown mode."""
        check(mode in _ACTIVATION_QUANTIZERS, "mode of an ActivationQuantizer", f"one of {', '.join(_ACTIVATION_QUANTIZERS)}", mode)
        self.mode = mode
        self._quantizer: Quantizer = _ACTIVATION_QUANTIZERS[mode]()

    def build(self, tensor_shape: Sequence[int | None], name: str, layer: Any) -> Variables:
        """Makes what the mode keeps; the dynamic ones keep nothing."""
        return self._quantizer.build(tensor_shape, name, layer)

    def __call__(self, inputs: tf.Tensor, training: bool, weights: Variables, **kwargs: Any) -> tf.Tensor:
        """Quantises; ranges follow while `training`."""
        # Ranges and steps are float32, also for bfloat16's values.
        return tf.cast(self._quantizer(tf.cast(inputs, tf.float32), training, weights), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"mode": self.mode}


class LearnedStepQuantizer(Quantizer):
    """Signed integers with one trained step (Esser et al. 2020, LSQ, eq. 1 to 3 and section 2.2).

    The step begins at twice the mean absolute value over sqrt(Qp) of the first values seen, and its gradient is multiplied by
    1 / sqrt(D Qp), for inputs of D features.
    """

    def __init__(self, bits: int = 8):
        """Raises ConfigError unless `bits` is 2 to 8."""
        check(2 <= bits <= 8, "bits of a LearnedStepQuantizer", "2 to 8", bits)
        self.bits = bits

    def build(self, tensor_shape: Sequence[int | None], name: str, layer: Any) -> Variables:
        """Makes `step`, trainable: 0, until the first call in training."""
        return {"step": layer.add_weight(name + "_step", initializer=tf.zeros, trainable=True)}

    def __call__(self, inputs: tf.Tensor, training: bool, weights: Variables, **kwargs: Any) -> tf.Tensor:
        """Float32 to float32."""
        most = 2.0 ** (self.bits - 1) - 1
        first = 2 * tf.reduce_mean(tf.abs(tf.stop_gradient(inputs))) / math.sqrt(most)
        stored = tf.convert_to_tensor(weights["step"])
        step = tf.maximum(tf.where(stored > 0, stored, first), _LEAST_STEP)
        if training:
            weights["step"].assign(step)
        return learned_step(inputs, step, -most - 1, most)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"bits": self.bits}


class DelayedFloat8Quantizer(Quantizer):
    """E4M3 values, or E5M2 gradients, by the largest absolute value of the 16 calls before (Micikevicius et al. 2022, section 3).

    What is larger than that is cut off at the format's largest number. The first call goes by its own values. Values pass their
    gradients straight through; with `gradients` it is the other way round.
    """

    def __init__(self, gradients: bool = False):
        self.gradients = gradients

    def build(self, tensor_shape: Sequence[int | None], name: str, layer: Any) -> Variables:
        """Makes `history`, zeros, the last call first."""
        return {"history": layer.add_weight(name + "_history", initializer=tf.zeros, trainable=False, shape=(_HISTORY,))}

    def __call__(self, inputs: tf.Tensor, training: bool, weights: Variables, **kwargs: Any) -> tf.Tensor:
        """Float32 to float32, or with `gradients` any dtype to the same."""
        history = weights["history"]
        if not self.gradients:
            return straight_through(inputs, lambda values: _delayed_float8(values, E4M3, history, training))

        @tf.custom_gradient
        def unchanged(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            def rounded(upstream: tf.Tensor) -> tf.Tensor:
                return tf.cast(_delayed_float8(tf.cast(upstream, tf.float32), E5M2, history, training), upstream.dtype)

            return tf.identity(values), rounded

        return unchanged(inputs)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"gradients": self.gradients}


class _Stateless(Quantizer):
    """A pure function, gradients straight through."""

    def __init__(self, function: Callable[[tf.Tensor], tf.Tensor]):
        self._function = function

    def build(self, tensor_shape: Sequence[int | None], name: str, layer: Any) -> Variables:
        return {}

    def __call__(self, inputs: tf.Tensor, training: bool, weights: Variables, **kwargs: Any) -> tf.Tensor:
        return straight_through(inputs, self._function)

    def get_config(self) -> dict[str, Any]:
        return {"function": self._function}


# One range for all tokens, its ends unlike, so that half of a gelu's range is not lost.
_STATIC = {"num_bits": 8, "per_axis": False, "symmetric": False, "narrow_range": False}
_ACTIVATION_QUANTIZERS: dict[str, Callable[[], Quantizer]] = {
    "dynamic_int8": lambda: _Stateless(per_token_int8),
    "dynamic_int8_symmetric": lambda: _Stateless(per_token_symmetric_int8),
    "moving_average": lambda: tfmot.quantization.keras.quantizers.MovingAverageQuantizer(**_STATIC),
    "last_value": lambda: tfmot.quantization.keras.quantizers.LastValueQuantizer(**_STATIC),
    "learned": LearnedStepQuantizer,
    "fp8": DelayedFloat8Quantizer,
    "none": lambda: _Stateless(tf.identity),
}


def straight_through(x: tf.Tensor, quantize: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """`quantize(x)`, to the bit, with the gradient of x itself."""

    @tf.custom_gradient
    def quantized(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        # Eagerly, an outer tape would record (and keep) what happens in here.
        return quantize(tf.stop_gradient(values)), lambda upstream: upstream

    return quantized(x)


def learned_step(x: tf.Tensor, step: tf.Tensor, least: float, most: float) -> tf.Tensor:
    """x float32 [..., D] in whole numbers of a step, from `least` to `most`, with gradients to both (Esser et al. 2020, eq. 3 and 5)."""

    @tf.custom_gradient
    def quantized(x: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        x, step = tf.stop_gradient(x), tf.stop_gradient(step)
        ratio = x / step
        codes = tf.clip_by_value(tf.round(ratio), least, most)

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            inside = (ratio > least) & (ratio < most)
            to_step = tf.reduce_sum(upstream * tf.where(inside, codes - ratio, codes))
            return tf.where(inside, upstream, 0.0), to_step / math.sqrt(x.shape[-1] * most)

        return codes * step, gradients

    return quantized(x, step)


def _delayed_float8(x: tf.Tensor, target: FloatFormat, history: tf.Variable, training: bool) -> tf.Tensor:
    """float32 to float32; the history takes the values' largest absolute value in, and one falls out."""
    now = tf.reduce_max(tf.abs(x))
    former = tf.convert_to_tensor(history)
    expected = tf.reduce_max(former)
    scale = tf.maximum(tf.where(expected > 0, expected, now), _LEAST_STEP) / target.largest
    if training:
        history.assign(tf.concat([now[None], former[:-1]], axis=0))
    return round_to(x / scale, target) * scale
