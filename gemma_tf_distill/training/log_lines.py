"""What is told of a run at a log line: scalars on TensorBoard, a line of progress, advice."""

import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Self

import tensorflow as tf

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.monitoring.hardware import HardwareMonitor, HardwareReading
from gemma_tf_distill.monitoring.input_wait import InputWait
from gemma_tf_distill.monitoring.progress import progress, warn
from gemma_tf_distill.monitoring.summaries import write_scalars
from gemma_tf_distill.training.heldout import HeldoutMetrics
from gemma_tf_distill.training.run import Run

# Log lines in a row at which the same verdict is worth a warning.
_LASTING = 3


def check_log_folder(folder: str) -> None:
    """Creates the folder of event files, and a file in it.

    Raises:
      ConfigError: where that can't be done: TensorFlow's writer would say so only once it has something to write.
    """
    probe = os.path.join(folder, f".{uuid.uuid4().hex}")
    try:
        tf.io.gfile.makedirs(folder)
        with tf.io.gfile.GFile(probe, "w") as file:
            file.write("")
        tf.io.gfile.remove(probe)
    except (tf.errors.OpError, OSError) as error:
        found = getattr(error, "message", None) or str(error)
        raise ConfigError(
            f"TensorBoard's event files can't be written to {folder} ({found}): give training a folder that it may write to"
        ) from error


def write_heldout(run: Run, step: int, found: HeldoutMetrics) -> None:
    """Adds what the run's student came to on the held-out split to its event files; `step`: steps taken."""
    writer = tf.summary.create_file_writer(run.tensorboard)
    with writer.as_default(step):
        write_scalars(found.scalars(run.control_nll))
    writer.close()


class LogLines:
    """Writes the scalars of a run to its event files. To be used in a `with` statement, at whose end the files are complete."""

    def __init__(self, run: Run, *, total_steps: int, chief: bool, hardware: HardwareMonitor | None):
        """Args:
        run: name and folder.
        total_steps: of the run.
        chief: whether this process writes; the others only warn.
        hardware: of this process; none: it is not looked at.
        """
        self._run = run
        self._total_steps = total_steps
        self._chief = chief
        self._hardware = hardware
        self._verdicts: list[str] = []
        self._warned: set[str] = set()
        self._writer = tf.summary.create_file_writer(run.tensorboard) if chief else tf.summary.create_noop_writer()

    def __enter__(self) -> Self:
        if self._hardware is not None and self._hardware.absent:
            with self._writer.as_default(0):
                tf.summary.text("hardware/not_measured", list(self._hardware.absent))
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, step: int, told: Mapping[str, float], waiting: InputWait[Any] | None) -> None:
        """Writes a line.

        Args:
          step: steps taken.
          told: scalars by their names on TensorBoard, `distill/loss` and `data/tokens_seen` among them.
          waiting: between the batches and the loop; none where nobody can tell how long it waits.
        """
        wait = None if waiting is None else waiting.fraction
        with self._writer.as_default(step):
            write_scalars(told if wait is None else {**told, "data/wait_fraction": wait})
            if self._hardware is not None:
                self._write_hardware(self._hardware.monitor_step(wait, told.get("hardware/mfu")))
        self._writer.flush()
        if waiting is not None and (advice := waiting.advice()):
            warn(f"{self._run.name}: {advice}")
        if self._chief:
            tokens = round(told["data/tokens_seen"])
            progress(self._run.name, tokens, tokens * self._total_steps // step, loss=told["distill/loss"])

    def write_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes scalars that are measured apart from log lines, where there are any."""
        if figures:
            with self._writer.as_default(step):
                write_scalars(figures)

    def write_once(self, write: Callable[[], None], step: int = 0) -> None:
        """Lets `write` use the run's summary writer, at a step."""
        with self._writer.as_default(step):
            write()

    def _write_hardware(self, found: HardwareReading) -> None:
        write_scalars(found.scalars)
        kind = found.verdict.kind
        if not self._verdicts or kind != self._verdicts[-1]:
            tf.summary.text("hardware/verdict", str(found.verdict))
        self._verdicts = [*self._verdicts, kind][-_LASTING:]
        # What holds training up is told once it lasts; that it waits for data is told by who measures it, over more steps.
        lasts = self._verdicts == [kind] * _LASTING
        if lasts and kind in ("memory-bound", "host-bound") and kind not in self._warned:
            self._warned.add(kind)
            warn(f"{self._run.name} is {found.verdict}")
