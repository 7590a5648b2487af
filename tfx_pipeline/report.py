"""What a run came to, read from ML Metadata and the artifacts that it points at."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from components.artifact_files import EXPORT_REPORT, METRICS_FILE, read_json
from components.quality_gate.results import read_gates, read_metrics
from gemma_tf_distill.config import Config
from gemma_tf_distill.errors import UserError
from gemma_tf_distill.export.files import file_records
from gemma_tf_distill.export.manifest import file_format
from gemma_tf_distill.export.names import MANIFEST_FILE
from gemma_tf_distill.monitoring.knowledge_transfer import gap_closed
from gemma_tf_distill.report.gates import OVERALL
from tfx_pipeline.stops import FOLDERS

_EXECUTION = metadata_store_pb2.Execution


@dataclasses.dataclass(frozen=True)
class NodeRun:
    """What a node did in a run.

    Attributes:
      seconds: from registering its execution to publishing it; 0 where a cached one was used.
      outputs: its artifacts by the name of the output.
      inputs: ids of the artifacts that it read.
      properties: the texts that it was given as parameters, such as `source_digest`.
    """

    seconds: float
    outputs: Mapping[str, metadata_store_pb2.Artifact]
    inputs: Sequence[int] = ()
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)


def latest_run(store: metadata_store.MetadataStore, pipeline_name: str, nodes: Sequence[str]) -> dict[str, NodeRun]:
    """The nodes of the latest run.

    Args:
      store: a database that holds runs of one pipeline.
      pipeline_name: its name.
      nodes: the ids of its nodes.

    Raises:
      RuntimeError: if there is no run, or a node of it is missing or not successful. The runners go on after some errors, so the
        end of a run does not say that it worked.
    """
    runs = store.get_contexts_by_type("pipeline_run")
    if not runs:
        raise RuntimeError("no run in ML Metadata")
    run = max(runs, key=lambda context: context.id)
    in_run = {execution.id: execution for execution in store.get_executions_by_context(run.id)}
    found = {}
    for node in nodes:
        context = store.get_context_by_type_and_name("node", f"{pipeline_name}.{node}")
        executions = [e for e in store.get_executions_by_context(context.id) if e.id in in_run] if context else []
        if not executions or executions[-1].last_known_state not in (_EXECUTION.COMPLETE, _EXECUTION.CACHED):
            state = f"its execution is {_EXECUTION.State.Name(executions[-1].last_known_state)}" if executions else "it was never started"
            raise RuntimeError(f"{node} did not finish: {state}")
        [execution] = executions
        cached = execution.last_known_state == _EXECUTION.CACHED
        milliseconds = 0 if cached else execution.last_update_time_since_epoch - execution.create_time_since_epoch
        events = store.get_events_by_execution_ids([execution.id])
        found[node] = NodeRun(
            milliseconds / 1000,
            outputs_of(store, execution.id),
            sorted({event.artifact_id for event in events if event.type == metadata_store_pb2.Event.INPUT}),
            {name: value.string_value for name, value in execution.custom_properties.items() if value.HasField("string_value")},
        )
    return found


def outputs_of(store: metadata_store.MetadataStore, execution: int) -> dict[str, metadata_store_pb2.Artifact]:
    """The artifacts that an execution made, or that its cached twin had made, by the name of the output."""
    events = [event for event in store.get_events_by_execution_ids([execution]) if event.type == metadata_store_pb2.Event.OUTPUT]
    artifacts = {artifact.id: artifact for artifact in store.get_artifacts_by_id([event.artifact_id for event in events])}
    return {event.path.steps[0].key: artifacts[event.artifact_id] for event in events}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
      report: the content of report.json.
      failures: for a model that is not blessed, each gate that it failed, as a sentence; empty where gates were not recorded yet.
      samples: completions of the same prompts by teacher and student.
    """

    report: dict[str, Any]
    failures: list[str]
    samples: list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Stopped:
    """Where a run stopped that was to stop on the way.

    Attributes:
      until: the component.
      folders: what was made so far and is of use elsewhere: `examples`, `tokenizer`, `student`, `model`.
      seconds: of each node; 0 where it came from cache.
    """

    until: str
    folders: dict[str, str]
    seconds: dict[str, float]


def create_stopped(until: str, nodes: Mapping[str, NodeRun]) -> Stopped:
    """Puts together what there is of a run that stopped after `until`; `nodes` as of `latest_run`."""
    folders = {told: node.outputs[output].uri for name, node in nodes.items() for told, output in FOLDERS.get(name, {}).items()}
    return Stopped(until, folders, {name: round(node.seconds, 3) for name, node in nodes.items()})


def create_outcome(config: Config, nodes: Mapping[str, NodeRun]) -> Outcome:
    """Puts together what a run came to.

    Args:
      config: the experiment.
      nodes: what `latest_run` found.

    Returns:
      The report: held-out figures are the Evaluator's, in nats a token, on the exported model; those before training and of the
      control are the Distiller's, on the same tokens.

    Raises:
      UserError: if a pushed version was taken away after it had been pushed.
    """
    evaluation = nodes["Evaluator"].outputs["evaluation"].uri
    blessed = all(_is_blessed(nodes[name]) for name in ("Evaluator", "InfraValidator") if name in nodes)
    metrics = read_metrics(evaluation).get(OVERALL, {})
    gates = read_gates(evaluation)
    failures = [*(gate.words for gate in gates or () if not gate.held), *_serving_failures(nodes)]
    trained = nodes["Quantizer"].outputs["quantized_student"] if "Quantizer" in nodes else nodes["Distiller"].outputs["student"]
    student = read_json(os.path.join(trained.uri, METRICS_FILE))
    model = nodes["Exporter"].outputs["model"].uri
    pushed = nodes["Pusher"].outputs["pushed_model"].custom_properties
    version = pushed["pushed_destination"].string_value if pushed["pushed"].int_value == 1 else None
    report = {
        "teacher": {
            "source": config.teacher.source,
            "parameters": student["teacher_parameters"],
            "heldout_nll": metrics.get("teacher_heldout_nll"),
            "bits_per_byte": metrics.get("teacher_bits_per_byte"),
        },
        "student": {
            **{key: student[key] for key in ("parameters", "vocabulary", "layers", "heldout_nll_initial")},
            "heldout_nll": metrics.get("heldout_nll"),
            "heldout_nll_control": student["heldout_nll_control"],
            "gap_closed": gap_closed(metrics.get("heldout_nll"), student["heldout_nll_control"], metrics.get("teacher_heldout_nll")),
            **{name: metrics.get(name) for name in ("bits_per_byte", "kl_to_teacher", "top1_agreement", "top5_agreement", "ece")},
            **_quantised(student),
        },
        "tokens": student["tokens"],
        "artifacts": _pushed_files(version) if version else _exported_files(model),
        "seconds": {name: round(node.seconds, 3) for name, node in nodes.items()},
        "blessed": blessed,
        "gates": None if gates is None else [dataclasses.asdict(gate) for gate in gates],
        "failures": failures,
        "pushed": version,
    }
    return Outcome(
        report=_without_nan(report),
        failures=failures,
        samples=read_json(os.path.join(model, EXPORT_REPORT))["samples"],
    )


def _is_blessed(node: NodeRun) -> bool:
    return node.outputs["blessing"].custom_properties["blessed"].int_value == 1


def _serving_failures(nodes: Mapping[str, NodeRun]) -> list[str]:
    if "InfraValidator" not in nodes or _is_blessed(nodes["InfraValidator"]):
        return []
    return ["TensorFlow Serving did not load the exported model, or did not answer: the log of the run that asked it says why"]


def _pushed_files(version: str) -> list[dict[str, Any]]:
    path = os.path.join(version, MANIFEST_FILE)
    if not tf.io.gfile.exists(path):
        raise UserError(f"the model was pushed to {version} by an earlier run and is no longer there: put it back, or use another --output")
    return [{**file, "path": os.path.join(version, file["path"])} for file in read_json(path)["files"]]


def _exported_files(model: str) -> list[dict[str, Any]]:
    """Files of a model that was not pushed, where the Exporter put them."""
    found = []
    for folder, prefix in (("Format-Serving", "saved_model/"), ("files", "")):
        root = os.path.join(model, folder)
        for record in file_records(root):
            name = file_format(prefix + record.path)
            found.append({"path": os.path.join(root, record.path), "format": name, "bytes": record.bytes, "sha256": record.sha256})
    return found


def _without_nan(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _quantised(student: Mapping[str, Any]) -> dict[str, Any]:
    """What a quantised student was on the way, of the Quantizer's metrics; nothing for one that stayed in float."""
    if "quantization" not in student:
        return {}
    return {
        **{key: student[key] for key in ("quantization", "heldout_nll_float", "heldout_nll_ptq")},
        "heldout_nll_quantized": student["heldout_nll"],
    }
