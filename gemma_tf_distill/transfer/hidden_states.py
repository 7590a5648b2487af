"""Learning what the teacher has in mind between its layers: hidden states, brought to one width and compared."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from gemma_tf_distill.config.checking import check
from gemma_tf_distill.config.distillation import PROJECTORS
from gemma_tf_distill.errors import ConfigError

_EPSILON = 1e-6


class LinearPathDistillation(keras.layers.Layer):
    """The mean squared error between a student's hidden states, projected to the teacher's width, and the teacher's.

    `mean((dropout(norm(student W)) - norm(teacher))^2)`: a learned linear map as in TinyBERT (Jiao et al. 2020, eq. 8) and in the
    regressor of FitNets (Romero et al. 2015, section 2.2). Both sides are layer-normalised without a learned scale or offset, so
    that layers of any magnitude weigh alike and small weights can't make the loss small. Nothing of this but its inputs is kept for
    the backward pass, which computes it again; XLA may keep what costs it no memory. The projector is used in training only and is
    no part of the student.

    Dropout leaves out whole dimensions of a window, the same at all its positions (as Gal & Ghahramani 2016 do in recurrent nets):
    a draw for every value took more memory on a TPU than all the rest.
    """

    def __init__(self, hidden_dim: int, dropout_rate: float = 0.0, *, projector: str | None = None, seed: int | None = None, **kwargs: Any):
        """Args:
          hidden_dim: the teacher's width, Dt.
          dropout_rate: share of the student's dimensions that are left out while training; the others grow, so that the mean stays.
          projector: how W begins: `identity` (needs equal widths), `orthogonal` or `glorot_uniform`; none: `identity` where the
            widths are equal, else `orthogonal`.
          seed: of a W that begins at random.
          **kwargs: of `keras.layers.Layer`.

        Raises:
          ConfigError: for a width, rate or projector that is none.
        """
        # Inputs keep the dtype they come in; W and the loss are float32.
        super().__init__(dtype="float32", autocast=False, **kwargs)
        check(hidden_dim >= 1, "hidden_dim", "at least 1", hidden_dim)
        check(0 <= dropout_rate < 1, "dropout_rate", "at least 0 and below 1", dropout_rate)
        check(projector in (None, *PROJECTORS), "projector", f"one of {', '.join(PROJECTORS)} or none", projector)
        self.hidden_dim = hidden_dim
        self.dropout_rate = dropout_rate
        self.projector = projector
        self.seed = seed

    def build(self, student_shape: Sequence[int | None]) -> None:
        """Makes W, float32 [Ds, Dt], for student states of shape [..., Ds].

        Raises:
          ConfigError: if the projector is `identity` and the widths differ.
        """
        width = student_shape[-1]
        projector = self.projector or ("identity" if width == self.hidden_dim else "orthogonal")
        if projector == "identity" and width != self.hidden_dim:
            raise ConfigError(
                f"projector identity needs equal widths, but the student's states are {width} wide and the teacher's "
                f"{self.hidden_dim}: use orthogonal or glorot_uniform"
            )
        initializer = {
            "identity": keras.initializers.IdentityInitializer(),
            "orthogonal": keras.initializers.Orthogonal(seed=self.seed),
            "glorot_uniform": keras.initializers.GlorotUniform(seed=self.seed),
        }[projector]
        self.kernel = self.add_weight(name="kernel", shape=(width, self.hidden_dim), initializer=initializer)
        self.built = True

    def call(
        self,
        student_states: tf.Tensor,
        teacher_states: tf.Tensor,
        mask: tf.Tensor,
        training: bool = False,
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Terms of each token.

        Args:
          student_states: [B, N, Ds], in the student's compute dtype, in which they are projected too.
          teacher_states: [B, N, Dt]; no gradient goes there.
          mask: float32 [B, N], 1 where a token counts and 0 elsewhere.
          training: whether to drop out.
          seed: int32 [2], of the dropout; the same seed drops the same values.

        Returns:
          float32 [B, N], the mean over the width, 0 where a token doesn't count.

        Raises:
          ValueError: if dropout is asked for without a seed.
        """
        rate = self.dropout_rate if training else 0.0
        if rate and seed is None:
            raise ValueError("dropout of hidden states needs a seed while training: give it, int32 [2]")
        target, kept = tf.stop_gradient(teacher_states), tf.constant(1.0)
        if rate:
            drawn = tf.random.stateless_uniform([tf.shape(student_states)[0], 1, self.hidden_dim], seed)
            kept = tf.where(drawn < rate, 0.0, 1 / (1 - rate))

        # XLA may merge both passes: the barrier in tf.recompute_grad copies all inputs, which took more memory than it saved.
        @tf.custom_gradient
        def terms(states: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
            def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
                with tf.GradientTape() as tape:
                    tape.watch([states, kernel])
                    again = _squared_error(states, kernel, kept, target)
                return tape.gradient(again, [states, kernel], upstream)

            # Eagerly, an outer tape would still record (and keep) what happens in here if its inputs led to the student.
            return _squared_error(tf.stop_gradient(states), tf.stop_gradient(kernel), kept, target), gradient

        return terms(student_states, tf.convert_to_tensor(self.kernel)) * mask


def _squared_error(states: tf.Tensor, kernel: tf.Tensor, kept: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    projected = _normalised(tf.matmul(states, tf.cast(kernel, states.dtype)))
    return tf.reduce_mean(tf.square(projected * kept - _normalised(target)), axis=-1)


def _normalised(states: tf.Tensor) -> tf.Tensor:
    """Layer norm (Ba et al. 2016, eq. 3) without gain and bias: [B, N, D] to float32 [B, N, D] of mean 0 and variance 1."""
    states = tf.cast(states, tf.float32)
    mean, variance = tf.nn.moments(states, axes=[-1], keepdims=True)
    return (states - mean) * tf.math.rsqrt(variance + _EPSILON)
