"""Profiles of some steps, for TensorBoard's profile plugin."""

import contextlib
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.python.profiler import profiler_v2

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.monitoring.profile_signal import ASKED_STEPS
from gemma_tf_distill.monitoring.progress import note


class ProfileWindow:
    """Marks every step for whoever takes a profile, and takes one itself of the steps that a config names, and whenever it is asked to."""

    def __init__(self, steps: Sequence[int] | None, folder: str, total_steps: int, name: str):
        """Args:
          steps: the first and the last one, counted from 1; none: no profile is taken unless it is asked for.
          folder: of the run's event files.
          total_steps: of the run.
          name: of the run.

        Raises:
          ConfigError: if the window ends beyond the last step.
        """
        if steps is not None and steps[1] > total_steps:
            raise ConfigError(
                f"training.profile_steps is [{steps[0]}, {steps[1]}], but training takes {total_steps} steps: end the window by then"
            )
        self._first, self._last = (0, -1) if steps is None else steps
        self._folder = folder
        self._name = name
        self._asked = False
        # The last step of the profile that is under way.
        self._until: int | None = None

    def ask(self) -> None:
        """Has the next `ASKED_STEPS` steps profiled, or a whole call that takes more; a mark is made, as a signal's handler may."""
        self._asked = True

    def step(self, number: int) -> contextlib.AbstractContextManager[object]:
        """The marker around a step, its batch's arrival included; a profile begins before its first one.

        Args:
          number: of the step, from 1; of the first one where one call takes several.
        """
        if self._until is None:
            if self._first <= number <= self._last:
                self._begin(self._last)
            elif self._asked and self._begin(number + ASKED_STEPS - 1):
                self._asked = False
        return tf.profiler.experimental.Trace("train", step_num=number, _r=1)

    def after(self, taken: int, result: tf.Tensor) -> None:
        """Ends the profile after its last step.

        Args:
          taken: steps by now.
          result: of the latest one, which is waited for.
        """
        if self._until is not None and taken >= self._until:
            result.numpy()
            self.close()

    def close(self) -> None:
        """Ends a profile that is under way, where training ends early."""
        if self._until is not None:
            self._until = None
            tf.profiler.experimental.stop()
            note(f"{self._name}: a profile is in {self._folder}: see Profile on TensorBoard")

    def _begin(self, until: int) -> bool:
        """Whether a profile began; where another one is being taken, such as by TensorBoard, the next step tries again."""
        # One that was begun by TensorFlow's Python interface, which whoever began it will end.
        if profiler_v2._profiler is not None:
            return False
        try:
            tf.profiler.experimental.start(self._folder)
        except tf.errors.AlreadyExistsError:
            # TensorFlow keeps the session that could not begin, and would refuse all that follow.
            tf.profiler.experimental.stop(save=False)
            return False
        self._until = until
        return True
