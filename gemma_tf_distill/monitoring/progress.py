"""Progress of long steps: JSON lines that any process of a run may add to, and the command line shows to a person."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

ENVIRONMENT_VARIABLE = "GEMMA_DISTILL_PROGRESS"

Event = dict[str, Any]
_listeners: list[Callable[[Event], None]] = []


@contextlib.contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Hands every event of this process to `listener` as well, while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def emit(event: str, **fields: Any) -> None:
    """Adds one line to the file that `GEMMA_DISTILL_PROGRESS` names, where it is set, and tells whoever is `listening`.

    Args:
      event: `stage` (what is done before the first node), `pipeline` (the `nodes` that follow), `node` (one changed its state),
        `progress` (a long step went on), `warning` (a `message` that a person should see), `note` (a `message` that may be of use),
        `error`, `outcome` or `stopped` (the run ended).
      **fields: what JSON can hold.
    """
    told = {"time": time.time(), "event": event, **fields}
    for listener in _listeners:
        listener(told)
    path = os.environ.get(ENVIRONMENT_VARIABLE)
    if not path:
        return
    line = json.dumps(told)
    # One write of one line in append mode: lines of several processes do not mix.
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


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


def warn(message: str) -> None:
    """Tells a person, in one line, of something that goes on but should be looked at.

    Args:
      message: what was found, with its figures, and what to do.
    """
    emit("warning", message=message)


def note(message: str) -> None:
    """Tells a person, in one line, of something that is there to be used, or of what became of what they asked for."""
    emit("note", message=message)
