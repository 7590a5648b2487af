"""What is told of a run at a log line: scalars on TensorBoard, a line of progress, advice."""

import time
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from gemma_tf_distill.monitoring.input_wait import InputWait
from gemma_tf_distill.monitoring.progress import progress, warn
from gemma_tf_distill.training.run import Run

# Scalars of a step that are told under a name of their own, or only counted by.
_NOT_LOSS_TERMS = ("gradient_norm", "tokens", "window_tokens")


class LogLines:
    """Writes the scalars of a run to its event files. To be used in a `with` statement, at whose end the files are complete."""

    def __init__(self, run: Run, *, begun: int, total_steps: int, chief: bool, waiting: InputWait[Any] | None):
        """Args:
        run: name and folder.
        begun: steps taken before this process.
        total_steps: of the run.
        chief: whether this process writes; the others only warn.
        waiting: between the batches and the loop; none where nobody can tell how long it waits.
        """
        self._run = run
        self._begun = begun
        self._total_steps = total_steps
        self._chief = chief
        self._waiting = waiting
        self._clock = time.monotonic()
        self._writer = tf.summary.create_file_writer(run.tensorboard) if chief else tf.summary.create_noop_writer()

    def __enter__(self) -> "LogLines":
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, step: int, values: Mapping[str, float], optimizer: keras.Optimizer) -> None:
        """Writes a line.

        Args:
          step: steps taken.
          values: the last step's scalars.
          optimizer: whose learning rate is that of the next step.
        """
        window_tokens = int(values["window_tokens"])
        rate = (step - self._begun) * window_tokens / (time.monotonic() - self._clock)
        with self._writer.as_default(step):
            for name, value in values.items():
                if name not in _NOT_LOSS_TERMS:
                    tf.summary.scalar(f"distill/{name}", value)
            tf.summary.scalar("train/gradient_norm", values["gradient_norm"])
            tf.summary.scalar("train/learning_rate", float(optimizer.learning_rate))
            tf.summary.scalar("data/tokens_per_second", rate)
            if self._waiting is not None and self._waiting.fraction is not None:
                tf.summary.scalar("data/wait_fraction", self._waiting.fraction)
        if self._waiting is not None and (advice := self._waiting.advice()):
            warn(f"{self._run.name}: {advice}")
        self._writer.flush()
        if self._chief:
            progress(self._run.name, step * window_tokens, self._total_steps * window_tokens, loss=values["loss"])
