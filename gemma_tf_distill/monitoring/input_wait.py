"""How long training waits for its next batch."""

import collections
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Batch = TypeVar("Batch")

# Above it a person is told.
MUCH_WAITING = 0.05


class InputWait(Generic[Batch]):
    """Passes batches on, and measures which share of its time the loop around it waits for them.

    A step lasts from one batch to the next. Opening the data and the first step, which compiles, do not count. No device is waited for:
    where steps are only handed over to an accelerator, a loop that runs ahead of it also waits while the accelerator works, so that the
    share is what the accelerator waits at the most.
    """

    def __init__(self, batches: Iterable[Batch], *, steps: int = 20, clock: Callable[[], float] = time.perf_counter):
        """Args:
        batches: what the loop would read itself, once.
        steps: the latest so many are measured.
        clock: seconds, rising.
        """
        self._batches = batches
        self._clock = clock
        # Seconds waited, seconds in all.
        self._steps: collections.deque[tuple[float, float]] = collections.deque(maxlen=steps)
        self._told = False

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches."""
        batches = iter(self._batches)
        given = 0.0
        for number in itertools.count():
            asked = self._clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            now = self._clock()
            if number > 1:
                self._steps.append((now - asked, now - given))
            given = now
            yield batch

    @property
    def fraction(self) -> float | None:
        """Share of the time of the latest steps in which the loop waited; none before the second step has ended."""
        total = sum(seconds for _, seconds in self._steps)
        return sum(waited for waited, _ in self._steps) / total if total else None

    def advice(self) -> str | None:
        """What a person should know where the loop waits for more than 5 % of its time, once; none otherwise."""
        fraction = self.fraction
        if self._told or fraction is None or len(self._steps) < (self._steps.maxlen or 0) or fraction <= MUCH_WAITING:
            return None
        self._told = True
        return (
            f"training waits {100 * fraction:.0f} % of its time for data (last {len(self._steps)} steps): keep the scored windows on a "
            "local disk, give the machine more cores, or store fewer of the teacher's words (distillation.top_k, distillation.draws)"
        )
