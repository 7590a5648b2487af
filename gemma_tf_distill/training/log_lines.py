"""What is told of a run at a log line: scalars on TensorBoard, a line of progress, advice."""

from collections.abc import Mapping
from typing import Any, Self

import tensorflow as tf

from gemma_tf_distill.monitoring.input_wait import InputWait
from gemma_tf_distill.monitoring.progress import progress, warn
from gemma_tf_distill.training.run import Run


class LogLines:
    """Writes the scalars of a run to its event files. To be used in a `with` statement, at whose end the files are complete."""

    def __init__(self, run: Run, *, total_steps: int, chief: bool, waiting: InputWait[Any] | None):
        """Args:
        run: name and folder.
        total_steps: of the run.
        chief: whether this process writes; the others only warn.
        waiting: between the batches and the loop; none where nobody can tell how long it waits.
        """
        self._run = run
        self._total_steps = total_steps
        self._chief = chief
        self._waiting = waiting
        self._writer = tf.summary.create_file_writer(run.tensorboard) if chief else tf.summary.create_noop_writer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, step: int, told: Mapping[str, float]) -> None:
        """Writes a line.

        Args:
          step: steps taken.
          told: scalars by their names on TensorBoard, `distill/loss` and `data/tokens_seen` among them.
        """
        with self._writer.as_default(step):
            for name, value in told.items():
                tf.summary.scalar(name, value)
            if self._waiting is not None and self._waiting.fraction is not None:
                tf.summary.scalar("data/wait_fraction", self._waiting.fraction)
        self._writer.flush()
        if self._waiting is not None and (advice := self._waiting.advice()):
            warn(f"{self._run.name}: {advice}")
        if self._chief:
            tokens = round(told["data/tokens_seen"])
            progress(self._run.name, tokens, tokens * self._total_steps // step, loss=told["distill/loss"])
