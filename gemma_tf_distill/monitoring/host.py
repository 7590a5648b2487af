"""What the host does: cores, memory, swap, disk and network, through psutil."""

import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class HostReading(NamedTuple):
    """The host since the reading before.

    Attributes:
      cpu: share of all cores' time that was busy, 0 to 1.
      own_cpu: share of all cores' time that this process took.
      memory: share of the memory that is not available.
      process_bytes: of memory that this process holds.
      swapped_in: bytes a second that were read back from swap.
      disk_read: bytes a second, of all disks; none where the system counts none.
      disk_written: likewise.
      network_received: bytes a second, of all interfaces.
      network_sent: likewise.
    """

    cpu: float
    own_cpu: float
    memory: float
    process_bytes: int
    swapped_in: float
    disk_read: float | None
    disk_written: float | None
    network_received: float
    network_sent: float


class Host:
    """Reads the counters of this machine."""

    def __init__(self, psutil: Any, clock: Callable[[], float] = time.monotonic):
        """Args:
        psutil: the module.
        clock: seconds, rising.
        """
        self._psutil = psutil
        self._clock = clock
        self._process = psutil.Process()
        self._process.cpu_percent()
        psutil.cpu_percent()
        self._before = self._counters()
        self._read_at = clock()

    @classmethod
    def find(cls) -> "Host | None":
        """This machine; none where psutil is not installed."""
        try:
            return cls(importlib.import_module("psutil"))
        except ModuleNotFoundError:
            return None

    def read(self) -> HostReading:
        """Figures since the last reading, or since this object was made."""
        now, counters = self._clock(), self._counters()
        seconds = max(now - self._read_at, 1e-9)
        rates = {name: (value - self._before[name]) / seconds if name in self._before else None for name, value in counters.items()}
        self._before, self._read_at = counters, now
        memory = self._psutil.virtual_memory()
        return HostReading(
            cpu=self._psutil.cpu_percent() / 100,
            own_cpu=self._process.cpu_percent() / 100 / (self._psutil.cpu_count() or 1),
            memory=1 - memory.available / memory.total,
            process_bytes=self._process.memory_info().rss,
            swapped_in=rates["swapped_in"] or 0.0,
            disk_read=rates.get("disk_read"),
            disk_written=rates.get("disk_written"),
            network_received=rates["network_received"] or 0.0,
            network_sent=rates["network_sent"] or 0.0,
        )

    def _counters(self) -> dict[str, int]:
        disk, network = self._psutil.disk_io_counters(), self._psutil.net_io_counters()
        counters = {
            "swapped_in": self._psutil.swap_memory().sin,
            "network_received": network.bytes_recv if network else 0,
            "network_sent": network.bytes_sent if network else 0,
        }
        # Containers without a view of the disks count none.
        return counters if disk is None else counters | {"disk_read": disk.read_bytes, "disk_written": disk.write_bytes}
