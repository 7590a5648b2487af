"""Quantisation of a whole Gemma 3: while it trains, and once and for all.

KerasHub's layers are used as they are. Their matrices are replaced by values on the lattice for the time of a forward pass
(`keras.StatelessScope`), and each layer's `call` by one that quantises its input first.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.config.checking import check
from gemma_tf_distill.gemma.model import Gemma, new_backbone
from gemma_tf_distill.gemma.replacing import replaced
from gemma_tf_distill.quantization.layout import EMBEDDING, MatmulWeight, matmul_weights, weight_schemes
from gemma_tf_distill.quantization.quantizers import (
    ActivationQuantizer,
    DelayedFloat8Quantizer,
    Keras3Weights,
    LatticeQuantizer,
    Quantizer,
    Variables,
)
from gemma_tf_distill.quantization.schemes import Scheme

HeadInput = Callable[[tf.Tensor], tf.Tensor]


class QuantizedWeight(NamedTuple):
    """One matrix as it is stored.

    Attributes:
      scheme: its lattice.
      codes: int8 or float8_e4m3fn [out, in].
      scales: float32 [out, 1], or [out, blocks].
    """

    scheme: Scheme
    codes: np.ndarray
    scales: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Bound:
    """A quantizer with its variables."""

    quantizer: Quantizer
    variables: Variables

    def __call__(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return self.quantizer(inputs, training, self.variables)


class ModelQuantization:
    """What the quantised training of one model needs beside the model: its quantizers, and what they remember.

    Weights are quantised with scales that `track` sets, once a step and not with every part of a batch.

    Attributes:
      config: the scheme and its overrides.
      model: the one that is trained.
    """

    def __init__(self, model: Gemma, config: QuantizationConfig):
        """Args:
          model: the one to train; it is not changed.
          config: with a scheme.

        Raises:
          ConfigError: without a scheme, for patterns that no weight has, and for blocks that don't divide a weight's inputs.
          WeightsError: for weights that are inf or NaN.
        """
        check(config.scheme is not None, "quantization.scheme", "given for quantised training", config.scheme)
        schemes = weight_schemes(config, model.config)
        self.config = config
        self.model = model
        self._weights = {name: weight for name, weight in matmul_weights(model.backbone).items() if name in schemes}
        # Keras variables, so that they are saved and restored as a model's are.
        self._layer = keras.layers.Layer(name="quantization")
        adapter = Keras3Weights(self._layer)
        self._lattices: dict[str, tuple[LatticeQuantizer, Variables]] = {}
        self._inputs: dict[str, _Bound] = {}
        self._gradients: dict[str, _Bound] = {}
        for name, weight in self._weights.items():
            lattice = LatticeQuantizer(schemes[name].name, weight.axis)
            self._lattices[name] = lattice, lattice.build(weight.shape, name, adapter)
            self._inputs[name] = _bound(ActivationQuantizer(config.products), f"{name}.inputs", adapter)
            # The head's product is differentiated inside the vocabulary loss, chunk by chunk, in its own dtype.
            if config.products == "fp8" and name != EMBEDDING:
                self._gradients[name] = _bound(DelayedFloat8Quantizer(gradients=True), f"{name}.gradients", adapter)
        self._check_weights()
        self.track(frozen=False)

    @property
    def variables(self) -> list[keras.Variable]:
        """What has to be kept with a checkpoint: scales, and histories where there are some."""
        return list(self._layer.variables)

    def track(self, frozen: bool | tf.Tensor) -> None:
        """Lets the scales follow the weights as they are now, or, frozen, only where a row or block no longer reaches its largest code."""
        for name, weight in self._weights.items():
            lattice, variables = self._lattices[name]
            lattice.track(_value(weight), tf.logical_not(frozen), variables)

    @contextlib.contextmanager
    def forward(self, training: bool, settled: bool = False) -> Iterator[HeadInput]:
        """In this context the model's backbone runs quantised, its variables read as values on the lattice, with gradients to themselves.

        To be entered where the gradient is recorded, and by one thread at a time.

        Args:
          training: whether histories (of `fp8`) follow.
          settled: whether the variables lie on the lattice already and can be read as they are.

        Yields:
          What quantises the head's input: final states [..., D].
        """
        weights = {} if settled else self._weights
        mapping = [(weight.variable, self._on_lattice(name, weight)) for name, weight in weights.items()]
        with contextlib.ExitStack() as stack:
            for name, weight in self._weights.items():
                if name != EMBEDDING:
                    stack.enter_context(_around(weight, self._inputs[name], self._gradients.get(name), training))
            stack.enter_context(keras.StatelessScope(mapping, initialize_variables=False))
            yield functools.partial(self._inputs[EMBEDDING], training=training) if EMBEDDING in self._inputs else tf.identity

    def settle(self) -> None:
        """Puts the model's own weights on the lattice, to the bit, for good: after the last step.

        Raises:
          WeightsError: for weights that are inf or NaN.
        """
        self._check_weights()
        # The scales are those before the last update.
        self.track(frozen=self.config.freeze_fraction > 0)
        for name, weight in self._weights.items():
            weight.variable.assign(self._on_lattice(name, weight))

    def relative_errors(self) -> Iterator[tuple[keras.Variable, tf.Tensor]]:
        """What rounding does to each matrix, with the scales of the last `track`.

        Yields:
          A variable, and float32 of its shape: rounded minus exact, in root mean squares of the variable; zeros where that is 0.
        """
        for name, weight in self._weights.items():
            exact = tf.cast(tf.convert_to_tensor(weight.variable.value), tf.float32)
            error = self._on_lattice(name, weight) - exact
            yield weight.variable, tf.math.divide_no_nan(error, tf.sqrt(tf.reduce_mean(tf.square(exact))))

    def _on_lattice(self, name: str, weight: MatmulWeight) -> tf.Tensor:
        lattice, variables = self._lattices[name]
        return tf.reshape(lattice.quantize(_value(weight), variables), weight.variable.shape)

    def _check_weights(self) -> None:
        for name, weight in self._weights.items():
            self._lattices[name][0].scheme.check_weights(name, np.asarray(_value(weight)))


@contextlib.contextmanager
def forward_as(quantization: ModelQuantization | None, training: bool, settled: bool = False) -> Iterator[HeadInput]:
    """`quantization.forward`, or a context that changes nothing where there is none."""
    if quantization is None:
        yield tf.identity
        return
    with quantization.forward(training, settled) as head_input:
        yield head_input


def quantized_weights(model: Gemma, config: QuantizationConfig) -> dict[str, QuantizedWeight]:
    """The matrices of a model as a scheme stores them, those that stay float left out.

    Args:
      model: its weights; already on the lattice, they come back to the bit.
      config: with a scheme.

    Raises:
      ConfigError: as of `ModelQuantization`.
      WeightsError: likewise.
    """
    weights, stored = matmul_weights(model.backbone), {}
    for name, scheme in weight_schemes(config, model.config).items():
        rows = weights[name].rows(_value(weights[name]))
        scheme.check_weights(name, np.asarray(rows))
        scales = scheme.scales(rows)
        stored[name] = QuantizedWeight(scheme, scheme.stored(np.asarray(scheme.codes(rows, scales))), np.asarray(scales))
    return stored


def fake_quantized(model: Gemma, config: QuantizationConfig) -> Gemma:
    """A copy of a model whose matrices lie on their lattices: what plain post-training quantisation makes of it.

    Args:
      model: it is not changed.
      config: with a scheme.

    Raises:
      ConfigError: as of `ModelQuantization`.
      WeightsError: likewise.
    """
    backbone = new_backbone(model, dtype=model.backbone.dtype_policy.name)
    for target, source in zip(backbone.weights, model.backbone.weights, strict=True):
        target.assign(source)
    copy = Gemma(backbone, model.tokenizer)
    ModelQuantization(copy, config).settle()
    return copy


def _bound(quantizer: Quantizer, name: str, adapter: Keras3Weights) -> _Bound:
    return _Bound(quantizer, quantizer.build((), name, adapter))


def _value(weight: MatmulWeight) -> tf.Tensor:
    return tf.cast(tf.reshape(tf.convert_to_tensor(weight.variable.value), weight.shape), tf.float32)


@contextlib.contextmanager
def _around(weight: MatmulWeight, inputs: _Bound, gradients: _Bound | None, training: bool) -> Iterator[None]:
    """Quantises what enters a layer, a token as one, and the gradient that comes back into its product."""
    layer, features = weight.layer, math.prod(weight.input_shape)
    former = layer.call

    def call(x: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        leading = tf.shape(x)[: -len(weight.input_shape)]
        tokens = tf.reshape(x, tf.concat([leading, [features]], axis=0))
        y = former(tf.reshape(inputs(tokens, training), tf.shape(x)), *args, **kwargs)
        return y if gradients is None else gradients(y, training)

    with replaced(layer, "call", call):
        yield
