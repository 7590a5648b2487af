"""Whether a number still falls: the slope of its last points, and how sure that is."""

import collections
import math
from typing import NamedTuple

import numpy as np


class Slope(NamedTuple):
    """A straight line's through some points.

    Attributes:
      slope: change of the number for each step.
      error: its standard error, by what the points scatter around the line, taken as independent of each other.
    """

    slope: float
    error: float


class Convergence:
    """Least squares through the latest points, with its standard error (Draper & Smith 1998, "Applied Regression Analysis", 1.4)."""

    def __init__(self, points: int = 20):
        """Args:
        points: the latest so many count, at least 3.
        """
        self._points: collections.deque[tuple[int, float]] = collections.deque(maxlen=points)

    def add(self, step: int, value: float) -> None:
        """Adds a point."""
        self._points.append((step, value))

    def clear(self) -> None:
        """Forgets all points."""
        self._points.clear()

    def slope(self) -> Slope | None:
        """The slope by now; none of fewer than three points, and not a number where one of the values is none."""
        if len(self._points) < 3:
            return None
        steps, values = np.asarray(self._points, np.float64).T
        if not np.isfinite(values).all():
            return Slope(math.nan, math.nan)
        steps -= steps.mean()
        spread = float(steps @ steps)
        slope = float(steps @ values) / spread
        rest = values - values.mean() - slope * steps
        return Slope(slope, math.sqrt(float(rest @ rest) / (len(values) - 2) / spread))
