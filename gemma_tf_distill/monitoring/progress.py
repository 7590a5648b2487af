"""Progress of long steps, as JSON lines that any process of a run may add to and the command line shows to a person."""

import json
import os
import time
from typing import Any

ENVIRONMENT_VARIABLE = "GEMMA_DISTILL_PROGRESS"


def emit(event: str, **fields: Any) -> None:
    """Adds one line to the file that `GEMMA_DISTILL_PROGRESS` names; nothing happens where it is not set.

    Args:
      event: `stage` (what is done before the first node), `pipeline` (the `nodes` that follow), `node` (one changed its state),
        `progress` (a long step went on), `warning` (a `message` that a person should see), `error` or `outcome` (the run ended).
      **fields: what JSON can hold.
    """
    path = os.environ.get(ENVIRONMENT_VARIABLE)
    if not path:
        return
    line = json.dumps({"time": time.time(), "event": event, **fields})
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
