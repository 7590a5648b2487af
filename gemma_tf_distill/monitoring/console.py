"""Progress events as lines that a person can read: one that moves on a terminal, one now and then in a file, or warnings alone."""

import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

from gemma_tf_distill.monitoring.pace import Pace, duration

_PLAIN_SECONDS = 10.0
# What is not counted is told again after this: a line that says only that time goes by is not worth more.
_WAITING_SECONDS = 60.0


class Display(Protocol):
    """Shows the events of a run."""

    def show(self, event: Mapping[str, Any]) -> None:
        """Takes an event, as `monitoring.progress` writes it."""

    def tick(self) -> None:
        """Is called several times a second, also without events."""

    def close(self) -> None:
        """Ends a line that is not complete."""


class QuietDisplay:
    """Shows warnings alone.

    Args:
      stream: where to write.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def show(self, event: Mapping[str, Any]) -> None:
        """See `Display`."""
        if event["event"] == "warning":
            self._stream.write(f"warning: {event['message']}\n")
            self._stream.flush()

    def tick(self) -> None:
        """See `Display`."""

    def close(self) -> None:
        """See `Display`."""


class TextDisplay:
    """Shows which node is running, what it does and how far it is.

    Args:
      stream: where to write.
      live: rewrite one line, for a terminal; else write a line about every ten seconds, and of what is not counted one a minute.
      clock: seconds, rising.
    """

    def __init__(self, stream: TextIO, live: bool, clock: Callable[[], float] = time.monotonic):
        self._stream = stream
        self._live = live
        self._clock = clock
        self._nodes: list[str] = []
        self._title = ""
        self._started = self._last_plain = clock()
        self._step: Pace | _Activity | None = None
        self._paces: dict[str, Pace] = {}
        self._patience = _PLAIN_SECONDS
        self._shown = ""

    def show(self, event: Mapping[str, Any]) -> None:
        """See `Display`."""
        kind = event.get("event")
        if kind == "pipeline":
            self._nodes = list(event["nodes"])
        elif kind == "stage":
            self._begin(event["stage"])
        elif kind == "node":
            self._show_node(event["node"], event["state"])
        elif kind == "warning":
            self._line(f"warning: {event['message']}")
        elif kind == "activity":
            self._step = _Activity(event["activity"], self._clock())
            self._patience = _PLAIN_SECONDS
        elif kind == "progress":
            self._step = self._paces.setdefault(event["task"], Pace(event["task"]))
            self._step.add(event)

    def _show_node(self, node: str, state: str) -> None:
        if state == "running":
            self._begin(self._place(node))
            return
        text = {"complete": f"done in {duration(self._clock() - self._started)}", "cached": "unchanged, taken from cache"}
        self._line(f"{self._place(node)} {text.get(state, state)}")
        self._begin("")

    def _begin(self, title: str) -> None:
        self._title, self._step, self._paces = title, None, {}
        self._started = self._last_plain = self._clock()
        self._patience = _PLAIN_SECONDS
        if title and not self._live:
            self._line(f"{title} …")

    def tick(self) -> None:
        """See `Display`."""
        now = self._clock()
        if not self._title and self._step is None:
            return
        if self._live:
            self._rewrite(self._status(now))
            return
        counted = isinstance(self._step, Pace)
        if now - self._last_plain < (_PLAIN_SECONDS if counted else self._patience):
            return
        self._last_plain = now
        if not counted:
            self._patience = _WAITING_SECONDS
        status = self._status(now)
        if status != self._shown:
            self._line(status)
            self._shown = status

    def close(self) -> None:
        """See `Display`."""
        self._rewrite("")
        self._stream.flush()

    def _status(self, now: float) -> str:
        if self._step is None:
            return f"{self._title} {duration(now - self._started)}"
        step = self._step.describe() if isinstance(self._step, Pace) else self._step.describe(now)
        return f"{self._title} {step}".lstrip()

    def _place(self, node: str) -> str:
        if node not in self._nodes:
            return node
        return f"[{self._nodes.index(node) + 1:2}/{len(self._nodes)}] {node:{max(map(len, self._nodes))}}"

    def _line(self, text: str) -> None:
        self._rewrite("")
        self._stream.write(text + "\n")
        self._stream.flush()

    def _rewrite(self, text: str) -> None:
        """Replaces the line that moves; it must not be longer than the terminal is wide, or it could not be taken back."""
        if not self._live or text == self._shown:
            return
        width = shutil.get_terminal_size().columns - 1
        text = text if len(text) <= width else text[: width - 1] + "…"
        self._stream.write("\r\x1b[K" + text)
        self._stream.flush()
        self._shown = text


class _Activity:
    """What is done where nothing is counted, and since when."""

    def __init__(self, name: str, began: float):
        self._name, self._began = name, began

    def describe(self, now: float) -> str:
        """`writing tflite, 12 s`; without the time where it only began."""
        seconds = now - self._began
        return self._name if seconds < 1 else f"{self._name}, {duration(seconds)}"
