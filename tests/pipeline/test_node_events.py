"""The runners' log messages as events."""

import json
import logging

import pytest

from tfx_pipeline.node_events import NodeEvents
from tfx_pipeline.node_memory import NodeMemory


@pytest.fixture
def events(tmp_path, monkeypatch):
    path = tmp_path / "progress.jsonl"
    path.touch()
    monkeypatch.setenv("GEMMA_DISTILL_PROGRESS", str(path))

    def read() -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert all(line["event"] == "node" for line in lines)
        # How much memory there was in use is known of what ran to its end.
        assert all((line.get("peak_bytes", 0) > 2**20) == (line["state"] == "complete") for line in lines)
        return [(line["node"], line["state"]) for line in lines]

    return read


@pytest.mark.parametrize("word", ["Component", "node"])  # LocalDagRunner's and BeamDagRunner's.
def test_states_of_nodes(events, word):
    handler = NodeEvents(NodeMemory())
    logger = logging.Logger("runner")
    logger.addHandler(handler)
    logger.info("%s %s is running.", word, "CorpusGen")
    logger.info("A cached execution %d is used.", 3)
    logger.info("%s %s is finished.", word, "CorpusGen")
    logger.info("%s %s is running.", word, "Distiller")
    logger.info("The student is running. A cached execution 3 is used. And so on.")
    logger.info("%s %s is finished.", word, "Distiller")
    logger.info("%s %s is running.", word, "Exporter")
    handler.failed()
    assert events() == [
        ("CorpusGen", "running"),
        ("CorpusGen", "cached"),
        ("Distiller", "running"),
        ("Distiller", "complete"),
        ("Exporter", "running"),
        ("Exporter", "failed"),
    ]


def test_a_failure_between_nodes_is_no_nodes_failure(events):
    NodeEvents(NodeMemory()).failed()
    assert events() == []
