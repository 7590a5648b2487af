"""A profile whenever a person wants one: by a signal to the process that trains."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from gemma_tf_distill.monitoring.progress import note

# Of a profile that is asked for.
ASKED_STEPS = 5


@contextlib.contextmanager
def profile_signal(name: str, ask: Callable[[], None]) -> Iterator[None]:
    """Calls `ask` at each SIGUSR1 that comes while the block runs, and tells a person which process to send it to.

    A handler that was there before is called, too, and is put back at the end.

    Args:
      name: of the run.
      ask: may do very little, since it is called between any two instructions.
    """
    before = signal.getsignal(signal.SIGUSR1)
    reason = None
    if threading.current_thread() is not threading.main_thread():
        reason = "training is not in the main thread of its process, and Python takes signals there alone"
    elif before is None:
        reason = "a library has taken SIGUSR1 for itself"
    if reason is not None:
        note(f"{name}: no signal takes a profile, since {reason}: set training.profile_steps or training.profiler_port")
        yield
        return

    def received(number: int, frame: FrameType | None) -> None:
        ask()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGUSR1, received)
    note(f"{name}: kill -USR1 {os.getpid()} takes a profile of the next {ASKED_STEPS} steps")
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def ignore_between_runs() -> None:
    """Makes SIGUSR1 mean nothing where no training takes it: by default it would end the process. For a process' main thread."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
