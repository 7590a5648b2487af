"""Which display shows the events of a command, and how it is fed in the command's own process."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import TextIO

from gemma_tf_distill.monitoring.console import Display, QuietDisplay, TextDisplay
from gemma_tf_distill.monitoring.log_entries import JsonDisplay
from gemma_tf_distill.monitoring.progress import Event, listening

TEXT, JSON, QUIET = "text", "json", "quiet"
STYLES = (TEXT, JSON, QUIET)
_TICK_SECONDS = 0.2


def make_display(style: str, stream: TextIO, errors: TextIO) -> Display:
    """The display of a style.

    Args:
      style: one of `STYLES`.
      stream: where progress goes; a terminal gets one line that moves.
      errors: where the warnings of the style `quiet` go.
    """
    if style == JSON:
        return JsonDisplay(stream)
    if style == QUIET:
        return QuietDisplay(errors)
    return TextDisplay(stream, live=stream.isatty() and os.environ.get("TERM") != "dumb")


@contextlib.contextmanager
def displayed(display: Display) -> Iterator[None]:
    """Shows every event of this process while the block runs, also how time goes by between them, and closes the display."""
    lock, ended = threading.Lock(), threading.Event()

    def show(event: Event) -> None:
        with lock:
            display.show(event)

    def tick() -> None:
        # Where nobody reads any more, the thread that works hears of it with the next event.
        with contextlib.suppress(BrokenPipeError):
            while not ended.wait(_TICK_SECONDS):
                with lock:
                    display.tick()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        with listening(show):
            yield
    finally:
        ended.set()
        thread.join()
        display.close()
