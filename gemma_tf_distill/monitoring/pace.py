"""How far a long step is, how fast it goes and what is left of it, in words."""

import collections
from collections.abc import Mapping
from typing import Any

# The rate is that of the last so many seconds, so that a compilation at the beginning does not spoil the estimate.
_RATE_SECONDS = 30.0
# Units that came within less than this tell no rate.
_LEAST_SECONDS = 0.1
# An estimate beyond this is none.
_LONGEST_SECONDS = 365 * 86_400.0


class Pace:
    """What `progress` events of one task come to.

    Attributes:
      task: its name.
    """

    def __init__(self, task: str):
        self.task = task
        self._points: collections.deque[tuple[float, float]] = collections.deque()
        self._latest: Mapping[str, Any] = {}

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes the next event, as `monitoring.progress` writes it."""
        if self._points and event["done"] < self._points[-1][1]:
            self._points.clear()  # It began anew.
        self._points.append((event["time"], event["done"]))
        while len(self._points) > 2 and event["time"] - self._points[0][0] > _RATE_SECONDS:
            self._points.popleft()
        self._latest = event

    def describe(self) -> str:
        """`student: 40,960 of 210,000 tokens (20 %), loss 3.912, 1,290 tokens/s, 2 min left`.

        Of more units than there were to be only their number is told.
        """
        done, total, unit = self._latest["done"], self._latest.get("total"), self._latest["unit"]
        known = total is not None and total > 0 and 0 <= done <= total
        counted = f"{done:,} of {total:,} {unit} ({100 * done // total} %)" if known else f"{done:,} {unit}"
        parts = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in self._latest.get("figures", {}).items()]
        rate = self._rate()
        if rate > 0:
            parts.append(f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s")
            if known and done < total and total - done < rate * _LONGEST_SECONDS:
                parts.append(f"{duration((total - done) / rate)} left")
        return f"{self.task}: {', '.join([counted, *parts])}"

    def _rate(self) -> float:
        (first_time, first_done), (last_time, last_done) = self._points[0], self._points[-1]
        return (last_done - first_done) / (last_time - first_time) if last_time - first_time >= _LEAST_SECONDS else 0.0


def duration(seconds: float) -> str:
    """A time that a person can read: `7 s`, `3 min 20 s`, `1 h 5 min`, `2 d 3 h`; one that is below zero is none."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
