"""Progress events as Cloud Logging reads them from what a program prints: a JSON object a line.

Its agents take the time, severity and text of an entry from the fields `time` (RFC 3339), `severity` and `message`; all others stay
fields of the entry's `jsonPayload` (cloud.google.com/logging/docs/structured-logging and …/docs/agent/logging/configuration).
"""

import datetime
import json
import math
from collections.abc import Mapping
from typing import Any, TextIO

from gemma_tf_distill.monitoring.pace import Pace

INFO, WARNING, ERROR = "INFO", "WARNING", "ERROR"


class LogEntries:
    """Makes entries of events, one after another: how fast a step goes is told by those before."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def entry(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The entry of an event as `monitoring.progress` writes it: the same fields, and `severity` and `message`."""
        fields = {name: _as_json(value) for name, value in event.items() if name not in ("time", "message")}
        return {"time": rfc3339(event["time"]), "severity": _severity(event), "message": self._sentence(event), **fields}

    def line(self, event: Mapping[str, Any]) -> str:
        """The entry as JSON, with its newline."""
        return json.dumps(self.entry(event), allow_nan=False) + "\n"

    def _sentence(self, event: Mapping[str, Any]) -> str:
        kind = event["event"]
        if kind == "progress":
            pace = self._paces.setdefault(event["task"], Pace(event["task"]))
            pace.add(event)
            return pace.describe()
        if kind == "pipeline":
            return f"{len(event['nodes'])} nodes: {', '.join(event['nodes'])}"
        if kind == "node":
            self._paces.clear()
            states = {"running": "is running", "complete": "is done", "cached": "is unchanged, taken from cache"}
            return f"{event['node']} {states.get(event['state'], event['state'])}"
        if kind == "outcome":
            report = event["report"]
            return f"blessed, pushed to {report['pushed']}" if report["blessed"] else "; ".join(["not blessed", *event["failures"]])
        if kind == "stopped":
            return f"stopped after {event['until']}"
        return event.get("message") or event.get(kind) or kind


class JsonDisplay:
    """Writes every event as an entry; see `console.Display`.

    Args:
      stream: where to write.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._entries = LogEntries()

    def show(self, event: Mapping[str, Any]) -> None:
        """See `Display`."""
        self._stream.write(self._entries.line(event))
        self._stream.flush()

    def tick(self) -> None:
        """See `Display`."""

    def close(self) -> None:
        """See `Display`."""


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as `2026-01-31T13:36:33.250000Z`."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _severity(event: Mapping[str, Any]) -> str:
    if event["event"] == "error" or event.get("state") == "failed":
        return ERROR
    refused = event["event"] == "outcome" and not event["report"]["blessed"]
    return WARNING if refused or event["event"] == "warning" else INFO


def _as_json(value: Any) -> Any:
    """JSON knows no infinity and nothing that is not a number: an agent would take the whole line for a text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    return value
