"""Keeps what C++ libraries print away from the terminal."""

import atexit
import contextlib
import functools
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def native_output_to_log(what: str) -> Iterator[None]:
    """Sends everything that is printed inside the block, by native code too, to this module's logger at level DEBUG.

    LiteRT and its converter write to file descriptors 1 and 2 directly, which no Python stream sees. The descriptors belong to the
    whole process: what other threads print meanwhile goes to the log as well.

    Args:
      what: what is under way, for the log.
    """
    with tempfile.TemporaryFile() as captured:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
        try:
            for descriptor, _ in saved:
                os.dup2(captured.fileno(), descriptor)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in saved:
                os.dup2(copy, descriptor)
                os.close(copy)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                _log.debug("%s: %s", what, line)


@functools.cache
def silence_native_output_at_exit() -> None:
    """Closes stderr as the last thing that Python does: LiteRT's static objects say goodbye after that, to nobody's use."""

    def silence() -> None:
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    atexit.register(silence)
