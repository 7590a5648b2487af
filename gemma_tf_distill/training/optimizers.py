"""AdamW with a linear warm-up and a cosine decay, the recipe of most language-model papers."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from gemma_tf_distill.config import TrainingConfig
from gemma_tf_distill.gemma.abstract import without_values

# The learning rate ends at this share of its peak, as in the recipes of Chinchilla and Llama.
FINAL_FRACTION = 0.1


class TakesSums(keras.optimizers.AdamW):
    """AdamW for gradients that are sums over all replicas already, which Keras would send over the links once more."""

    def latest_updates(self, variables: Sequence[keras.Variable], measure: Callable[[tf.Tensor], tf.Tensor]) -> list[tf.Tensor]:
        """Something of what the latest step added to each variable, worked out from what it left behind.

        Its slots hold both moments (Kingma & Ba 2015, algorithm 1), and what decayed (Loshchilov & Hutter 2019, algorithm 2) is a share of
        the weights from before, which weights and moments tell together. So nothing has to be kept while steps are taken. Rounding apart
        this is what was added; from slots in bfloat16, within half a percent.

        Args:
          variables: of those that it was built for, after at least one step.
          measure: from an update, float32 [...] as its variable, to what is wanted of it.
        """
        steps = tf.cast(self.iterations.value, tf.float32)
        rate = tf.cast(self._learning_rate(self.iterations.value - 1), tf.float32)
        size = rate * tf.sqrt(1 - self.beta_2**steps) / (1 - self.beta_1**steps)

        def measured(value: tf.Tensor, momentum: tf.Tensor, velocity: tf.Tensor, decay: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
            momentum, velocity = tf.cast(momentum, tf.float32), tf.cast(velocity, tf.float32)
            return measure(-(size * momentum / (tf.sqrt(velocity) + self.epsilon) + decay * value) / (1 - decay))

        # Compiled once for each shape: there are a few, and hundreds of variables.
        compiled = tf.function(measured, jit_compile=True, autograph=False)
        found = []
        for variable in variables:
            index = self._get_variable_index(variable)
            decay = rate * self.weight_decay if self._use_weight_decay(variable) else tf.zeros([])
            read = [tf.convert_to_tensor(one) for one in (variable.value, self._momentums[index].value, self._velocities[index].value)]
            found.append(compiled(*read, decay, size))
        return found

    def _all_reduce_sum_gradients(self, grads_and_vars: Iterable[tuple[tf.Tensor, Any]]) -> list[tuple[tf.Tensor, Any]]:
        return list(grads_and_vars)


class AdamWithSmallSlots(TakesSums):
    """AdamW whose two slots are kept in bfloat16: half their memory, the arithmetic in float32.

    A slot that moves by less than 1/512 of itself is rounded back to where it was. With decays of 0.9 and 0.95 that is a slot within
    2 and 4 % of what it follows, so that no stochastic rounding is needed.
    """

    def add_variable_from_reference(self, reference_variable: Any, name: str | None = None, initializer: str = "zeros") -> keras.Variable:
        """A slot of a variable's shape, in bfloat16."""
        return self.add_variable(reference_variable.shape, initializer, "bfloat16", name=f"{reference_variable.name}_{name}")

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        """Kingma & Ba 2015, algorithm 1, with the bias correction in the step size (section 2), as Keras' Adam does it."""
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        gradient, step = tf.cast(gradient, tf.float32), tf.cast(self.iterations + 1, tf.float32)
        first = self.beta_1 * tf.cast(momentum, tf.float32) + (1 - self.beta_1) * gradient
        second = self.beta_2 * tf.cast(velocity, tf.float32) + (1 - self.beta_2) * tf.square(gradient)
        size = tf.cast(learning_rate, tf.float32) * tf.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        self.assign(momentum, first)
        self.assign(velocity, second)
        self.assign_sub(variable, size * first / (tf.sqrt(second) + self.epsilon))


class Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a factor that may change while training goes on."""

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, factor: tf.Variable):
        """Args:
        schedule: of the learning rate.
        factor: float32 scalar.
        """
        super().__init__()
        self._schedule = schedule
        self._factor = factor

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of a step, float32."""
        return self._schedule(step) * self._factor


def make_optimizer(
    config: TrainingConfig,
    total_steps: int,
    variables: list[keras.Variable],
    *,
    stateless: bool = False,
    rate_factor: tf.Variable | None = None,
) -> TakesSums:
    """An optimizer, built for `variables`; weight decay is left off vectors (norm scales).

    Args:
      config: learning rate, warm-up, weight decay and the slots' dtype.
      total_steps: at which the cosine decay ends.
      variables: the trainable variables.
      stateless: for a `keras.StatelessScope`, in which Keras' optimizers can't be used with TensorFlow.
      rate_factor: by which the learning rate is multiplied; none: by nothing.
    """
    warmup = min(round(config.warmup_fraction * total_steps), total_steps - 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else config.learning_rate,
        decay_steps=total_steps - warmup,
        alpha=FINAL_FRACTION,
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    if rate_factor is not None:
        schedule = Scaled(schedule, rate_factor)
    kind = AdamWithSmallSlots if config.optimizer_dtype == "bfloat16" else TakesSums
    optimizer = (_stateless(kind) if stateless else kind)(schedule, weight_decay=config.weight_decay, beta_2=0.95)
    optimizer.exclude_from_weight_decay(var_list=[v for v in variables if len(v.shape) < 2])
    # The counter of steps has a value, and is made outside of the scope; slots have none yet.
    with without_values() if stateless else contextlib.nullcontext():
        optimizer.build(variables)
    return optimizer


def _stateless(kind: type[keras.optimizers.AdamW]) -> type[keras.optimizers.AdamW]:
    """The same optimizer, of variables that may have no `tf.Variable`: assignments go through Keras' own, which a scope records."""

    class Stateless(kind):
        def _var_key(self, variable: keras.Variable) -> int:
            return id(variable)

        def add_variable_from_reference(
            self, reference_variable: keras.Variable, name: str | None = None, initializer: str = "zeros"
        ) -> keras.Variable:
            dtype = "bfloat16" if kind is AdamWithSmallSlots else reference_variable.dtype
            return self.add_variable(reference_variable.shape, initializer, dtype, name=f"{reference_variable.name}_{name}")

        def assign(self, variable: keras.Variable, value: tf.Tensor) -> None:
            variable.assign(tf.cast(value, variable.dtype))

        def assign_add(self, variable: keras.Variable, value: tf.Tensor) -> None:
            variable.assign(variable.value + tf.cast(value, variable.dtype))

        def assign_sub(self, variable: keras.Variable, value: tf.Tensor) -> None:
            variable.assign(variable.value - tf.cast(value, variable.dtype))

        def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable]) -> None:
            rate = self.learning_rate
            for gradient, variable in zip(grads, trainable_variables, strict=True):
                if self._use_weight_decay(variable):
                    self.assign_sub(variable, variable.value * self.weight_decay * rate)
                self.update_step(gradient, variable, rate)
            self.assign_add(self.iterations, 1)

    return Stateless
