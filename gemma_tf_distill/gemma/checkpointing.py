"""Gradient checkpointing: what a decoder block computes on its way is forgotten, and computed again when its gradient is taken."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla


def recomputed(block: Any, x: tf.Tensor, padding_mask: tf.Tensor) -> tf.Tensor:
    """`block(x, padding_mask=padding_mask)`, of which only `x` is kept for the gradient (Chen et al. 2016, section 3).

    The second computation is the first one, operation by operation: also where a context such as `quantization.apply.forward_as`
    changes what the block's layers do and is left before the gradient is taken. To be called inside a `tf.function`.

    Args:
      block: one of `backbone.transformer_layers`, which updates no variable of its own.
      x: [B, N, D] of static shape, the residual stream that enters it.
      padding_mask: int32 [B, N], 1 at tokens.

    Returns:
      [B, N, D], the residual stream that leaves it.
    """
    variables = block.weights
    values = [tf.convert_to_tensor(variable.value) for variable in variables]

    # Weights are arguments, since a gradient that is recomputed knows no others: those of a quantised block are no variables.
    def run(x: tf.Tensor, *values: tf.Tensor) -> tf.Tensor:
        with keras.StatelessScope(list(zip(variables, values, strict=True)), initialize_variables=False):
            return block(x, padding_mask=padding_mask)

    def run_backward(upstream: tf.Tensor, *arguments: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y = run(*arguments)
        return tape.gradient(y, arguments, output_gradients=upstream)

    # Both are traced here and now, in the contexts that the caller is in. The gradient has its forward pass inside: shapes that crossed
    # from one function to another would make XLA take the weights for constants.
    specs = [tf.TensorSpec(value.shape, value.dtype) for value in (x, *values)]
    forward = tf.function(run, autograph=False).get_concrete_function(*specs)
    backward = tf.function(run_backward, autograph=False).get_concrete_function(specs[0], *specs)

    @tf.custom_gradient
    def block_of(x: tf.Tensor, *values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            # XLA would find that all this has been computed before, and keep the first results. Behind the barrier it can't know.
            return backward(*xla.optimization_barrier(upstream, x, *values))

        return forward(x, *values), gradient

    return block_of(x, *values)
