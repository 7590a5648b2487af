"""Progress events as lines that a person can read: one that moves on a terminal, one now and then in a file."""

import collections
import json
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

# The rate is that of the last so many seconds, so that a compilation at the beginning does not spoil the estimate.
_RATE_SECONDS = 30.0
_PLAIN_SECONDS = 10.0


class Display(Protocol):
    """Shows the events of a run."""

    def show(self, event: Mapping[str, Any]) -> None:
        """Takes an event, as `monitoring.progress` writes it."""

    def tick(self) -> None:
        """Is called several times a second, also without events."""

    def close(self) -> None:
        """Ends a line that is not complete."""


class JsonDisplay:
    """Passes events on as JSON lines."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def show(self, event: Mapping[str, Any]) -> None:
        """See `Display`."""
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()

    def tick(self) -> None:
        """See `Display`."""

    def close(self) -> None:
        """See `Display`."""


class TextDisplay:
    """Shows which node is running and how far it is.

    Args:
      stream: where to write.
      live: rewrite one line, for a terminal; else write a line about every ten seconds.
      clock: seconds, rising.
    """

    def __init__(self, stream: TextIO, live: bool, clock: Callable[[], float] = time.monotonic):
        self._stream = stream
        self._live = live
        self._clock = clock
        self._nodes: list[str] = []
        self._title = ""
        self._started = self._last_plain = clock()
        self._task: _Task | None = None
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
        elif kind == "note":
            self._line(event["message"])
        elif kind == "progress":
            if self._task is None or self._task.name != event["task"]:
                self._task = _Task(event["task"])
            self._task.add(event)

    def _show_node(self, node: str, state: str) -> None:
        if state == "running":
            self._begin(self._place(node))
            return
        text = {"complete": f"done in {duration(self._clock() - self._started)}", "cached": "unchanged, taken from cache"}
        self._line(f"{self._place(node)} {text.get(state, state)}")
        self._begin("")

    def _begin(self, title: str) -> None:
        self._title, self._task = title, None
        self._started = self._last_plain = self._clock()
        if title and not self._live:
            self._line(f"{title} …")

    def tick(self) -> None:
        """See `Display`."""
        now = self._clock()
        if self._live:
            if self._title:
                self._rewrite(self._status(now))
        elif self._task and now - self._last_plain >= _PLAIN_SECONDS:
            self._last_plain = now
            status = self._status(now)
            if status != self._shown:
                self._line(status)
                self._shown = status

    def close(self) -> None:
        """See `Display`."""
        self._rewrite("")
        self._stream.flush()

    def _status(self, now: float) -> str:
        return f"{self._title} {self._task.describe() if self._task else duration(now - self._started)}"

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


class _Task:
    """How far a long step of a node is, and how fast."""

    def __init__(self, name: str):
        self.name = name
        self._points: collections.deque[tuple[float, float]] = collections.deque()
        self._latest: Mapping[str, Any] = {}

    def add(self, event: Mapping[str, Any]) -> None:
        if self._points and event["done"] < self._points[-1][1]:
            self._points.clear()  # It began anew.
        self._points.append((event["time"], event["done"]))
        while len(self._points) > 2 and event["time"] - self._points[0][0] > _RATE_SECONDS:
            self._points.popleft()
        self._latest = event

    def describe(self) -> str:
        """`student: 40,960 of 210,000 tokens (20 %), loss 3.912, 1,290 tokens/s, 2 min left`."""
        done, total, unit = self._latest["done"], self._latest.get("total"), self._latest["unit"]
        counted = f"{done:,} of {total:,} {unit} ({100 * done // total} %)" if total else f"{done:,} {unit}"
        parts = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in self._latest.get("figures", {}).items()]
        rate = self._rate()
        if rate:
            parts.append(f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s")
            if total and total > done:
                parts.append(f"{duration((total - done) / rate)} left")
        return f"{self.name}: {', '.join([counted, *parts])}"

    def _rate(self) -> float:
        (first_time, first_done), (last_time, last_done) = self._points[0], self._points[-1]
        return (last_done - first_done) / (last_time - first_time) if last_time > first_time else 0.0


def duration(seconds: float) -> str:
    """A time that a person can read: `7 s`, `3 min 20 s`, `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
