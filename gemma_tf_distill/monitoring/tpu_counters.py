"""What libtpu counts of the TPU chips of this machine while they work."""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from gemma_tf_distill.xla.attached import attached_chips

_OTHERWISE = "take a profile (training.profile_steps)"


class ChipReading(NamedTuple):
    """The chip of a device; none where libtpu does not tell.

    Attributes:
      busy: share of libtpu's latest period in which it computed, 0 to 1.
      used_bytes: of its memory, now.
      limit_bytes: of its memory.
    """

    busy: float | None = None
    used_bytes: int | None = None
    limit_bytes: int | None = None


class TpuCounters:
    """Asks `libtpu.sdk.tpumonitoring`, where there is one.

    Attributes:
      absent: a sentence about what is not measured here, and what to do; none where all is.
    """

    def __init__(self) -> None:
        self._monitoring: Any = None
        self.absent: str | None = None
        # Without a chip libtpu asks Google's metadata server for minutes; those of a remote TPU are counted there.
        if not attached_chips():
            self.absent = f"utilisation of TPUs is not measured: this machine has none of its own; {_OTHERWISE}"
            return
        try:
            self._monitoring = importlib.import_module("libtpu.sdk").tpumonitoring
        except (ImportError, AttributeError) as error:
            self.absent = (
                f"utilisation of TPUs is not measured: libtpu has no monitoring here ({error}); pip install -U libtpu, or {_OTHERWISE}"
            )
            return
        if not self._values("duty_cycle_pct"):
            self.absent = f"utilisation of TPUs is not measured: libtpu counts nothing yet; if it stays so, {_OTHERWISE}"

    def read(self, devices: int) -> list[ChipReading]:
        """The chips of so many devices, in their order; several cores that are devices of one chip share its reading."""
        if self._monitoring is None:
            return [ChipReading()] * devices
        busy = _spread(self._values("duty_cycle_pct"), devices)
        used, limits = (_spread(self._values(f"hbm_capacity_{name}"), devices) for name in ("usage", "total"))
        return [
            ChipReading(
                None if share is None else share / 100, None if taken is None else int(taken), None if limit is None else int(limit)
            )
            for share, taken, limit in zip(busy, used, limits, strict=True)
        ]

    def _values(self, metric: str) -> list[float]:
        """Of each chip; empty where libtpu knows nothing of it, or fails."""
        try:
            return [float(value) for value in self._monitoring.get_metric(metric).data()]
        except (RuntimeError, ValueError):
            return []


def _spread(values: Sequence[float], devices: int) -> list[float | None]:
    """One value a device; none where it is not plain whose they are."""
    if not values or devices % len(values):
        return [None] * devices
    return [values[index * len(values) // devices] for index in range(devices)]
