"""How much memory a run takes while a node works: sampled, since the nodes of a run share one process."""

import contextlib
import threading
from collections.abc import Iterator

import psutil

_SECONDS = 0.5


class NodeMemory:
    """The most memory that this process and all that it started had in use, since `begin`."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._lock = threading.Lock()
        self._peak = 0
        self._stop = threading.Event()

    @contextlib.contextmanager
    def sampled(self) -> Iterator["NodeMemory"]:
        """Looks twice a second, in a thread, until the block ends."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def begin(self) -> None:
        """A node begins: what was before it does not count."""
        with self._lock:
            self._peak = 0
        self.sample()

    def peak(self) -> int:
        """Bytes of resident memory, of all processes together, the most of all samples since `begin`."""
        self.sample()
        with self._lock:
            return self._peak

    def sample(self) -> None:
        """Looks once."""
        used = 0
        for process in (self._process, *self._process.children(recursive=True)):
            # One that has ended in the meantime has no memory.
            with contextlib.suppress(psutil.NoSuchProcess):
                used += process.memory_info().rss
        with self._lock:
            self._peak = max(self._peak, used)

    def _watch(self) -> None:
        while not self._stop.wait(_SECONDS):
            self.sample()
