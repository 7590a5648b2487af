"""A profile of some steps, for TensorBoard's profile plugin."""

import contextlib
from collections.abc import Sequence

import tensorflow as tf

from gemma_tf_distill.errors import ConfigError


class ProfileWindow:
    """Marks every step for whoever takes a profile, and takes one itself of the steps that a config names."""

    def __init__(self, steps: Sequence[int] | None, folder: str, total_steps: int):
        """Args:
          steps: the first and the last one, counted from 1; none: no profile is taken.
          folder: of the run's event files.
          total_steps: of the run.

        Raises:
          ConfigError: if the window ends beyond the last step.
        """
        if steps is not None and steps[1] > total_steps:
            raise ConfigError(
                f"training.profile_steps is [{steps[0]}, {steps[1]}], but training takes {total_steps} steps: end the window by then"
            )
        self._first, self._last = (0, -1) if steps is None else steps
        self._folder = folder
        self._running = False

    def step(self, number: int) -> contextlib.AbstractContextManager[object]:
        """The marker around a step, its batch's arrival included; the profile begins before the first that it names.

        Args:
          number: of the step, from 1; of the first one where one call takes several.
        """
        if not self._running and self._first <= number <= self._last:
            tf.profiler.experimental.start(self._folder)
            self._running = True
        return tf.profiler.experimental.Trace("train", step_num=number, _r=1)

    def after(self, taken: int, result: tf.Tensor) -> None:
        """Ends the profile after its last step.

        Args:
          taken: steps by now.
          result: of the latest one, which is waited for.
        """
        if self._running and taken >= self._last:
            result.numpy()
            self.close()

    def close(self) -> None:
        """Ends a profile that is under way, where training ends early."""
        if self._running:
            self._running = False
            tf.profiler.experimental.stop()
