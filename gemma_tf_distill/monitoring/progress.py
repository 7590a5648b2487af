"""Progress of long steps: JSON lines that any process of a run may add to, and the command line shows to a person."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.monitoring.log_entries import LogEntries

ENVIRONMENT_VARIABLE = "GEMMA_DISTILL_PROGRESS"
LOG_VARIABLE = "GEMMA_DISTILL_LOG"
"""How progress is told where no option says it; a process that has no display of its own prints its events if this is `json`."""

_TICKER_SECONDS = 2.0

Event = dict[str, Any]
_listeners: list[Callable[[Event], None]] = []
_entries = LogEntries()
_lock = threading.Lock()


@contextlib.contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Hands every event of this process to `listener` as well, while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def event_now(event: str, **fields: Any) -> Event:
    """An event of this moment, told to nobody; arguments as of `emit`."""
    return {"time": time.time(), "event": event, **fields}


def emit(event: str, **fields: Any) -> None:
    """Adds one line to the file that `GEMMA_DISTILL_PROGRESS` names, where it is set, and tells whoever is `listening`.

    With `GEMMA_DISTILL_LOG=json` it is printed, too, as an entry for Cloud Logging.

    Args:
      event: `stage` (what is done before the first node), `pipeline` (the `nodes` that follow), `node` (one changed its state),
        `progress` (a long step went on), `activity` (a long step that is not counted began), `warning` (a `message` that a person should
        see), `note` (a `message` that may be of use), `error`, `outcome` or `stopped` (the run ended).
      **fields: what JSON can hold.

    Raises:
      ConfigError: if `GEMMA_DISTILL_PROGRESS` names no file that can be written to.
    """
    told = event_now(event, **fields)
    for listener in _listeners:
        listener(told)
    if os.environ.get(LOG_VARIABLE) == "json":
        with _lock:
            sys.stdout.write(_entries.line(told))
            sys.stdout.flush()
    path = os.environ.get(ENVIRONMENT_VARIABLE)
    if not path:
        return
    line = json.dumps(told)
    # One write of one line in append mode: lines of several processes do not mix.
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise ConfigError(
            f"{ENVIRONMENT_VARIABLE} is {path}, which can't be written to ({error.strerror}): set it to a file, or unset it"
        ) from error


def progress(task: str, done: int, total: int | None = None, *, unit: str = "tokens", **figures: float) -> None:
    """Says how far a long step is.

    Args:
      task: what is under way, such as `student` or `teacher targets`.
      done: units done since the step began.
      total: units in all, where known.
      unit: what is counted.
      **figures: numbers worth seeing while it runs, such as `loss` (nats a token).
    """
    emit("progress", task=task, done=done, total=total, unit=unit, figures=figures)


def doing(activity: str) -> None:
    """Says what is done now, where there is nothing to count.

    Args:
      activity: such as `writing tflite`.
    """
    emit("activity", activity=activity)


def warn(message: str) -> None:
    """Tells a person, in one line, of something that goes on but should be looked at.

    Args:
      message: what was found, with its figures, and what to do.
    """
    emit("warning", message=message)


def note(message: str) -> None:
    """Tells a person, in one line, of something that is there to be used, or of what became of what they asked for."""
    emit("note", message=message)


class Ticker:
    """Progress of a step whose units come quickly: at most one event in two seconds.

    Args:
      task, total, unit: as of `progress`.
    """

    def __init__(self, task: str, total: int | None = None, *, unit: str):
        self._task, self._total, self._unit = task, total, unit
        self._done = 0
        self._due = time.monotonic() + _TICKER_SECONDS

    def add(self, done: int) -> None:
        """Counts units done."""
        self._done += done
        if time.monotonic() >= self._due:
            progress(self._task, self._done, self._total, unit=self._unit)
            self._due = time.monotonic() + _TICKER_SECONDS
