"""How alike two models' hidden states are, layer by layer, whatever their widths."""

from collections.abc import Mapping

import keras_hub
import numpy as np
import tensorflow as tf

from gemma_tf_distill.gemma.taps import forward

_LEAST_SQUARE = 1e-12


def feature_similarity(
    teacher: keras_hub.models.Gemma3Backbone, student: keras_hub.models.Gemma3Backbone, inputs: Mapping[str, tf.Tensor]
) -> np.ndarray:
    """Linear centred kernel alignment of the residual stream after each layer (Kornblith et al. 2019, eq. 2 and 4).

    It is 1 where one model's states are the other's, rotated and scaled. States count by their directions: the few tokens whose states
    are a hundred times as long as others would be all that is compared.

    Args:
      teacher: any depth and width.
      student: over the same vocabulary.
      inputs: `token_ids` and `padding_mask`, int32 [B, N], of a few windows. The states of all layers, and a matrix [tokens, tokens] of
        each, are held at once.

    Returns:
      float32 [student layers, teacher layers], between 0 and 1; 0 where a layer gives every token the same state.
    """
    tokens = inputs["padding_mask"] != 0

    def kernels(backbone: keras_hub.models.Gemma3Backbone) -> tf.Tensor:  # [layers, tokens * tokens], of length 1 or 0.
        layers = backbone.num_layers
        states = forward(backbone, inputs, hidden_states=range(layers), last=layers - 1).hidden_states
        return tf.stack([_kernel(tf.boolean_mask(tf.cast(states[layer], tf.float32), tokens)) for layer in range(layers)])

    return tf.clip_by_value(tf.matmul(kernels(student), kernels(teacher), transpose_b=True), 0.0, 1.0).numpy()


def _kernel(states: tf.Tensor) -> tf.Tensor:
    """The centred products of states float32 [tokens, D] with each other, flat and at length 1."""
    directions = _at_length_one(states)
    centred = directions - tf.reduce_mean(directions, axis=0)
    return _at_length_one(tf.reshape(tf.matmul(centred, centred, transpose_b=True), [1, -1]))[0]


def _at_length_one(rows: tf.Tensor) -> tf.Tensor:
    return rows * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(rows), axis=-1, keepdims=True), _LEAST_SQUARE))
