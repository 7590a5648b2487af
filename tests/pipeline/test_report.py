"""What is read from ML Metadata, on a database in memory."""

import json
import math

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from gemma_tf_distill.errors import UserError
from tfx_pipeline import report
from tfx_pipeline.report import latest_run

Execution = metadata_store_pb2.Execution


class Database:
    """Runs as TFX's runners write them."""

    def __init__(self):
        connection = metadata_store_pb2.ConnectionConfig()
        connection.fake_database.SetInParent()
        self.store = metadata_store.MetadataStore(connection)
        self.types = {name: self.store.put_context_type(metadata_store_pb2.ContextType(name=name)) for name in ("pipeline_run", "node")}
        self.execution_type = self.store.put_execution_type(metadata_store_pb2.ExecutionType(name="component"))
        self.artifact_type = self.store.put_artifact_type(metadata_store_pb2.ArtifactType(name="Model"))
        self.contexts: dict[tuple[str, str], int] = {}

    def context(self, kind: str, name: str) -> int:
        if (kind, name) not in self.contexts:
            [self.contexts[kind, name]] = self.store.put_contexts([metadata_store_pb2.Context(type_id=self.types[kind], name=name)])
        return self.contexts[kind, name]

    def execute(self, run: str, node: str, state: int, uri: str = "/model", outputs=None) -> None:
        contexts = [
            metadata_store_pb2.Context(id=self.context(kind, name), type_id=self.types[kind], name=name)
            for kind, name in (("pipeline_run", run), ("node", f"tiny.{node}"))
        ]
        execution = Execution(type_id=self.execution_type, last_known_state=Execution.RUNNING)
        execution.id, _, _ = self.store.put_execution(execution, [], contexts)
        made = []
        for key, properties in (outputs or {"model": {}}).items():
            event = metadata_store_pb2.Event(type=metadata_store_pb2.Event.OUTPUT)
            event.path.steps.add().key = key
            event.path.steps.add().index = 0
            made.append((metadata_store_pb2.Artifact(type_id=self.artifact_type, uri=uri, custom_properties=properties), event))
        execution.last_known_state = state
        self.store.put_execution(execution, made, contexts)


@pytest.fixture
def database() -> Database:
    return Database()


def test_the_latest_run_is_read_and_cached_nodes_take_no_time(database):
    database.execute("monday", "Exporter", Execution.COMPLETE, "/old")
    database.execute("monday", "Pusher", Execution.COMPLETE)
    database.execute("tuesday", "Exporter", Execution.CACHED, "/new")
    database.execute("tuesday", "Pusher", Execution.COMPLETE)
    found = latest_run(database.store, "tiny", ["Exporter", "Pusher"])
    assert list(found) == ["Exporter", "Pusher"]
    assert found["Exporter"].seconds == 0
    assert found["Exporter"].outputs["model"].uri == "/new"
    assert 0 <= found["Pusher"].seconds < 60


def test_a_run_that_is_not_whole_is_never_reported(database):
    with pytest.raises(RuntimeError, match="no run"):
        latest_run(database.store, "tiny", ["Exporter"])
    database.execute("monday", "Exporter", Execution.COMPLETE)
    database.execute("monday", "Pusher", Execution.COMPLETE)
    database.execute("tuesday", "Exporter", Execution.FAILED)
    with pytest.raises(RuntimeError, match="Exporter did not finish: its execution is FAILED"):
        latest_run(database.store, "tiny", ["Exporter", "Pusher"])
    database.execute("wednesday", "Exporter", Execution.COMPLETE)
    # Monday's Pusher is no substitute for Wednesday's.
    with pytest.raises(RuntimeError, match="Pusher did not finish: it was never started"):
        latest_run(database.store, "tiny", ["Exporter", "Pusher"])


def test_a_pushed_version_that_was_taken_away_is_told(tmp_path):
    with pytest.raises(UserError, match="is no longer there"):
        report._pushed_files(str(tmp_path / "1795564746"))


@pytest.mark.parametrize(("verdict", "failures"), [(None, 0), (1, 0), (0, 1)])
def test_what_tensorflow_serving_refused_is_told(verdict, failures):
    nodes = {}
    if verdict is not None:
        blessing = metadata_store_pb2.Artifact()
        blessing.custom_properties["blessed"].int_value = verdict
        nodes["InfraValidator"] = report.NodeRun(1.0, {"blessing": blessing})
    told = report._serving_failures(nodes)
    assert len(told) == failures
    assert all("TensorFlow Serving did not load the exported model" in words for words in told)


def test_json_gets_null_for_what_is_no_number():
    cleaned = report._without_nan({"a": [math.nan, 1.5, {"b": math.inf}], "c": None, "d": "nan"})
    assert json.loads(json.dumps(cleaned, allow_nan=False)) == {"a": [None, 1.5, {"b": None}], "c": None, "d": "nan"}
