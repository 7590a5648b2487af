"""What the runners say in their logs about nodes, as progress events."""

import logging
import re

from gemma_tf_distill.monitoring.progress import emit

# LocalDagRunner says "Component X is running.", BeamDagRunner "node X is running."; the launcher says nothing but the number of the
# execution where a cached one is used.
_STATE = re.compile(r"(?:Component|node) (\S+) is (running|finished)\.")
_CACHED = re.compile(r"A cached execution \d+ is used\.")


class NodeEvents(logging.Handler):
    """Emits a `node` event with `node` and `state` (`running`, `complete`, `cached`, `failed`) whenever a node changes its state."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._running: str | None = None
        self._cached = False

    def emit(self, record: logging.LogRecord) -> None:
        """Reads one message of a runner."""
        message = record.getMessage()
        if _CACHED.fullmatch(message):
            self._cached = True
        elif match := _STATE.fullmatch(message):
            node, state = match.groups()
            if state == "running":
                self._running, self._cached = node, False
                emit("node", node=node, state="running")
            else:
                self._running = None
                emit("node", node=node, state="cached" if self._cached else "complete")

    def failed(self) -> None:
        """Says that the node that was running, if any, has failed."""
        if self._running is not None:
            emit("node", node=self._running, state="failed")
