"""What the runners say in their logs about nodes, as progress events."""

import logging
import re

from gemma_tf_distill.monitoring.progress import emit
from tfx_pipeline.node_memory import NodeMemory

# LocalDagRunner says "Component X is running.", BeamDagRunner "node X is running."; the launcher says nothing but the number of the
# execution where a cached one is used.
_STATE = re.compile(r"(?:Component|node) (\S+) is (running|finished)\.")
_CACHED = re.compile(r"A cached execution \d+ is used\.")


class NodeEvents(logging.Handler):
    """Emits a `node` event with `node` and `state` (`running`, `complete`, `cached`, `failed`) whenever a node changes its state.

    Of a node that is complete, `peak_bytes` says how much memory was in use at the most while it ran.
    """

    def __init__(self, memory: NodeMemory) -> None:
        super().__init__(logging.INFO)
        self._memory = memory
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
                self._memory.begin()
                emit("node", node=node, state="running")
            else:
                self._running = None
                if self._cached:
                    emit("node", node=node, state="cached")
                else:
                    emit("node", node=node, state="complete", peak_bytes=self._memory.peak())

    def failed(self) -> None:
        """Says that the node that was running, if any, has failed."""
        if self._running is not None:
            emit("node", node=self._running, state="failed")
