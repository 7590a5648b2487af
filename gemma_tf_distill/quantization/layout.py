"""Which weights of a Gemma 3 are quantised, what they are called, and how KerasHub's kernels lie as [out, in]."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import keras_hub
import tensorflow as tf

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.quantization.schemes import Scheme, four_bit_schemes, get_scheme

EMBEDDING = "embedding"


class MatmulWeight(NamedTuple):
    """One matrix of a backbone, named as `gemma.functional.weights_of` names it.

    Attributes:
      variable: KerasHub's, in its own layout.
      layer: the one that multiplies by it; the tied embedding's looks rows up as well.
      shape: of the variable, with the axes over which a product sums made one: [n, d, h] for query, key and value, [n h, d] for the
        attention's output, [in, out] for the feed-forward layers, [V, D] for the embedding.
      axis: that one.
      input_shape: of one token where it enters the product, over which the product sums: [n, h] for the attention's output.
    """

    variable: keras.Variable
    layer: keras.Layer
    shape: tuple[int, ...]
    axis: int
    input_shape: tuple[int, ...]

    def rows(self, kernel: tf.Tensor) -> tf.Tensor:
        """The variable's value, or one of its shape, as [out, in]."""
        order = [*(index for index in range(len(self.shape)) if index != self.axis), self.axis]
        return tf.reshape(tf.transpose(tf.reshape(kernel, self.shape), order), [-1, self.shape[self.axis]])

    def from_rows(self, rows: tf.Tensor) -> tf.Tensor:
        """[out, in] in the variable's own shape."""
        outputs = [size for index, size in enumerate(self.shape) if index != self.axis]
        order = list(range(len(outputs)))
        order.insert(self.axis, len(outputs))
        return tf.reshape(tf.transpose(tf.reshape(rows, [*outputs, self.shape[self.axis]]), order), self.variable.shape)


def matmul_weights(backbone: keras_hub.models.Gemma3Backbone) -> dict[str, MatmulWeight]:
    """Every matrix of a backbone, the tied embedding first."""

    def weight(layer: keras.Layer, variable: keras.Variable, axes: tuple[int, ...]) -> MatmulWeight:
        first, last = axes[0], axes[-1] + 1
        input_shape = variable.shape[first:last]
        shape = (*variable.shape[:first], math.prod(input_shape), *variable.shape[last:])
        return MatmulWeight(variable, layer, shape, first, input_shape)

    weights = {EMBEDDING: weight(backbone.token_embedding, backbone.token_embedding.embeddings, (1,))}
    for index, block in enumerate(backbone.transformer_layers):
        attention = block.attention
        for name, layer, axes in (
            ("query", attention.query_dense, (1,)),
            ("key", attention.key_dense, (1,)),
            ("value", attention.value_dense, (1,)),
            ("attention_output", attention.output_dense, (0, 1)),
            ("gate", block.gating_ffw, (0,)),
            ("up", block.gating_ffw_2, (0,)),
            ("down", block.ffw_linear, (0,)),
        ):
            weights[f"layers.{index}.{name}"] = weight(layer, layer.kernel, axes)
    return weights


def matmul_shapes(sizes: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """The same names with their [out, in], from a backbone's config alone, such as `gemma.model.architecture` gives."""
    hidden, feedforward = sizes["hidden_dim"], sizes["intermediate_dim"]
    queries, keys = (sizes[name] * sizes["head_dim"] for name in ("num_query_heads", "num_key_value_heads"))
    layer = {
        "query": (queries, hidden),
        "key": (keys, hidden),
        "value": (keys, hidden),
        "attention_output": (hidden, queries),
        "gate": (feedforward, hidden),
        "up": (feedforward, hidden),
        "down": (hidden, feedforward),
    }
    layers = {f"layers.{index}.{name}": shape for index in range(sizes["num_layers"]) for name, shape in layer.items()}
    return {EMBEDDING: (sizes["vocabulary_size"], hidden), **layers}


def weight_schemes(config: QuantizationConfig, sizes: Mapping[str, Any]) -> dict[str, Scheme]:
    """The scheme of every weight that has one.

    Args:
      config: a scheme and its overrides.
      sizes: a backbone's config.

    Raises:
      ConfigError: for a pattern that no weight has, listing the names, and for blocks that don't divide a weight's inputs, naming it and
        the schemes that do.
    """
    shapes = matmul_shapes(sizes)
    for pattern in config.overrides:
        if not any(QuantizationConfig(scheme=config.scheme, overrides={pattern: "float"}).scheme_of(name) is None for name in shapes):
            kinds = sorted({name.split(".")[-1] for name in shapes if name != EMBEDDING})
            raise ConfigError(
                f"quantization.overrides names {pattern!r}, which no weight matches: there are {EMBEDDING} and layers.0 to "
                f"layers.{sizes['num_layers'] - 1} with {', '.join(f'layers.N.{kind}' for kind in kinds)}"
            )
    schemes = {}
    for name, (_, inputs) in shapes.items():
        chosen = config.scheme_of(name)
        if chosen is None:
            continue
        scheme = schemes[name] = get_scheme(chosen)
        if scheme.block and inputs % scheme.block:
            fitting = ", ".join(reversed(four_bit_schemes(inputs)))
            raise ConfigError(
                f"{chosen} cuts the inputs of {name} into blocks of {scheme.block}, but there are {inputs}: use "
                f"{fitting} in quantization.scheme, or in quantization.overrides for {name}"
            )
    return schemes
