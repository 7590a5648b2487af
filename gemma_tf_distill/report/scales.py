"""From values to places of a plot, and the round numbers beside its axes."""

import dataclasses
import math
from collections.abc import Sequence

_STEPS = (1, 2, 2.5, 5, 10)


@dataclasses.dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis.

    Attributes:
      low: value at `start`.
      high: value at `end`; above `low`.
      start: place in the drawing, pixels.
      end: likewise; below `start` for an axis that points up.
      log: logarithmic, where both values are positive.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, *, log_from: float = math.inf) -> "Scale":
        """An axis that holds all values with some air around them.

        Args:
          values: at least one, finite.
          start: place of the lowest.
          end: place of the highest.
          log_from: how many times the lowest value the highest must be for a logarithmic axis.
        """
        low, high = min(values), max(values)
        if low > 0 and high / low >= log_from:
            air = (high / low) ** 0.06
            return cls(low / air, high * air, start, end, log=True)
        air = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - air if low < 0 or low - air > 0 else 0.0, high + air, start, end)

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.start + self._share(value) * (self.end - self.start)

    def _share(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values on the axis, rising: about so many."""
        if self.log and self.high / self.low > 4:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                found = [digit * 10.0**power for power in powers for digit in digits if self.low <= digit * 10.0**power <= self.high]
                if len(found) <= about + 2:
                    return found
            return found[:: -(-len(found) // about)]
        width = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(width))
        step = next(factor * power for factor in _STEPS if factor * power >= width * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]
