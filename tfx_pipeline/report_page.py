"""Gathers what is known of a finished run and writes `report.html`."""

import contextlib
import datetime
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2

from components.artifact_files import EXPORT_REPORT, METRICS_FILE, read_json
from components.corpus_gen.graph import read_figures
from components.quality_gate.results import read_baseline_metrics, read_files, read_metrics
from gemma_tf_distill.config import Config, config_from_dict
from gemma_tf_distill.errors import ConfigError, UserError
from gemma_tf_distill.export.manifest import installed_packages
from gemma_tf_distill.export.names import MANIFEST_FILE
from gemma_tf_distill.gemma.student import kept_layers
from gemma_tf_distill.report.command import reproduce_command
from gemma_tf_distill.report.content import Artifact, Content, Data, Layers, Node
from gemma_tf_distill.report.gates import OVERALL, gate_results
from gemma_tf_distill.report.page import render_page
from gemma_tf_distill.report.runs import earlier_pushes, figures_of_report, read_object, sibling_runs
from gemma_tf_distill.transfer.layer_mapping import IntermediateLayerMapping
from tfx_pipeline.metadata_file import damaged_database, open_metadata
from tfx_pipeline.output_folder import OutputFolder, write_whole
from tfx_pipeline.report import NodeRun, Outcome, create_outcome, latest_run
from tfx_pipeline.report_parts import read_anomalies, read_curves, read_statistics, read_validation

_FINGERPRINTS = ("source_digest", "corpus_fingerprint", "teacher_fingerprint")
_STATES = ("complete", "cached")


def write_page(folder: OutputFolder, config: Config, nodes: Mapping[str, NodeRun], outcome: Outcome) -> None:
    """Writes the page of a run that has just finished, blessed or not.

    Args:
      folder: of the run, with its `report.json`.
      config: the experiment.
      nodes: what `latest_run` found.
      outcome: what `create_outcome` made of it.
    """
    write_whole(folder.page, render_page(gather(folder, config, nodes, outcome)))


def rebuild_page(path: pathlib.Path) -> pathlib.Path:
    """Writes the page of a run's folder again, from what lies in it; the folder may have been moved.

    Returns:
      The page.

    Raises:
      UserError: if it is no folder of a run, its latest run has not finished, or artifacts of it are gone.
    """
    folder = OutputFolder(path)
    what_to_do = _last_error(folder) or "let gemma-distill run go on in it"
    for file in (folder.config, folder.report, folder.metadata):
        if not file.is_file() and folder.config.is_file():
            raise UserError(f"the run in {path} has not finished, it has no {file.name}: {what_to_do}")
        if not file.is_file():
            raise UserError(f"{path} holds no finished run, it has no {file.name}: give the folder of a run, such as outputs/demo")
    values = read_object(folder.config)
    try:
        config = config_from_dict(values)
    except ConfigError as error:
        raise UserError(f"{folder.config} is not of this version of gemma-distill, or damaged ({error}): run the config again") from error
    seconds = read_object(folder.report).get("seconds")
    if not isinstance(seconds, dict):
        raise UserError(f"{folder.report} is not of gemma-distill, or damaged (no seconds by node): run the config again")
    store = open_metadata(folder.metadata)
    try:
        nodes = {name: _at(node, folder) for name, node in latest_run(store, config.name, list(seconds)).items()}
        evaluation = nodes["Evaluator"].outputs["evaluation"].uri if "Evaluator" in nodes else ""
        if evaluation and not tf.io.gfile.exists(evaluation):
            raise UserError(f"artifacts of the run in {path} are gone ({evaluation}): run its config again")
        write_page(folder, config, nodes, create_outcome(config, nodes))
    except RuntimeError as error:
        raise UserError(f"the latest run in {path} has not finished ({error}): {what_to_do}") from error
    except errors.StatusError as error:
        raise damaged_database(folder.metadata) from error
    except tf.errors.NotFoundError as error:
        raise UserError(f"artifacts of the run in {path} are gone ({error.message}): run its config again") from error
    except (json.JSONDecodeError, DecodeError, tf.errors.DataLossError) as error:
        raise UserError(f"artifacts of the run in {path} are damaged ({error}): run its config again with another --output") from error
    return folder.page


def _events(folder: OutputFolder) -> list[dict[str, Any]]:
    """Of the latest run; a line that is not whole, as where the run was killed or the disk was full, is left out."""
    lines = folder.progress.read_text(encoding="utf-8", errors="replace").splitlines() if folder.progress.is_file() else []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                found.append(event)
    return found


def _last_error(folder: OutputFolder) -> str:
    """What ended the latest run; empty where nothing went wrong or it was killed."""
    return next((event["message"] for event in reversed(_events(folder)) if event["event"] == "error"), "")


def _at(node: NodeRun, folder: OutputFolder) -> NodeRun:
    """The node with its artifacts where they are, though the folder was moved after they had been written."""
    for artifact in node.outputs.values():
        artifact.uri = _moved(artifact.uri, folder)
        if destination := _destination(artifact):
            artifact.custom_properties["pushed_destination"].string_value = _moved(destination, folder)
    return node


def _moved(uri: str, folder: OutputFolder) -> str:
    parts = pathlib.PurePath(uri).parts
    if "://" in uri:
        return uri
    # Folders above the run's may be called like those in it: the last one counts.
    inside = {folder.pipeline_root.name: folder.pipeline_root, folder.pushed.name: folder.pushed}
    places = [place for place, part in enumerate(parts) if part in inside]
    if not places:
        return uri
    # What lies in the folder itself comes first: it may be a copy, and the original there still.
    here = inside[parts[places[-1]]].joinpath(*parts[places[-1] + 1 :])
    return str(here) if here.exists() or not tf.io.gfile.exists(uri) else uri


def gather(folder: OutputFolder, config: Config, nodes: Mapping[str, NodeRun], outcome: Outcome) -> Content:
    """What the page shows of a run; arguments as of `write_page`."""
    outputs = {name: node.outputs for name, node in nodes.items()}
    evaluation = outputs["Evaluator"]["evaluation"].uri
    export = read_json(os.path.join(outputs["Exporter"]["model"].uri, EXPORT_REPORT))
    parity = (export.get("parity") or {}).get("files", [])
    trainings = [outputs[name]["model_run"].uri for name in ("Distiller", "Quantizer") if "model_run" in outputs.get(name, {})]
    config_values, gates = config.to_dict(), outcome.report["gates"]
    this_run = figures_of_report(folder.path, outcome.report, config_values, parity)
    command, note = reproduce_command(config_values)
    return Content(
        created=_time(nodes),
        report=outcome.report,
        config=config_values,
        config_digest=config.digest,
        command=command,
        command_note=note,
        gates=None if gates is None else gate_results(gates),
        slices=read_metrics(evaluation),
        baseline=read_baseline_metrics(evaluation).get(OVERALL, {}),
        curves=[curve for uri in trainings if tf.io.gfile.exists(uri) for curve in read_curves(uri)],
        this_run=this_run,
        other_runs=[*earlier_pushes(folder.path, this_run.version), *sibling_runs(folder.path)],
        parity=parity,
        repetition={name: figures.get("repetition_rate") for name, figures in read_files(evaluation).items()},
        layers=_layers(config, outcome.report, export, outputs),
        samples=outcome.samples,
        nodes=_nodes(nodes, folder),
        artifacts=_artifacts(nodes, folder),
        data=_data(outputs),
        packages=_packages(outcome.report),
    )


def _time(nodes: Mapping[str, NodeRun]) -> str:
    """When the latest artifact was written, which a page that is rebuilt says too."""
    times = [artifact.last_update_time_since_epoch for node in nodes.values() for artifact in node.outputs.values()]
    return datetime.datetime.fromtimestamp(max(times, default=0) / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def _packages(report: Mapping[str, Any]) -> dict[str, str]:
    """Those that pushed the version; for a model that was not pushed, those that are installed."""
    manifest = os.path.join(report["pushed"], MANIFEST_FILE) if report["pushed"] else ""
    if manifest and tf.io.gfile.exists(manifest):
        return read_json(manifest)["packages"]
    return installed_packages()


def _layers(config: Config, report: Mapping[str, Any], export: Mapping[str, Any], outputs: Mapping[str, Mapping[str, Any]]) -> Layers:
    similarity = export.get("layer_similarity") or {}
    hidden_states = similarity.get("hidden_states") or []
    depth, own = len(hidden_states[0]) if hidden_states else 0, report["student"]["layers"]
    mapping: Sequence[tuple[int, int]] = ()
    name = ""
    kept = kept_layers(config.student, own if config.student.layers is None else depth)
    objective = config.distillation.hidden_states
    if kept is not None:
        mapping, name = [(theirs, mine) for mine, theirs in enumerate(kept)], "the teacher’s layer that each of the student’s began as"
    elif depth and objective.weight and objective.mapping != "adaptive":
        mapping = IntermediateLayerMapping(objective.mapping).create_mapping(depth, own)
        name = f"what was compared while training ({objective.mapping})"
    elif depth:
        mapping, name = IntermediateLayerMapping("uniform").create_mapping(depth, own), "evenly spread; nothing was compared while training"
    errors: Mapping[str, float] = {}
    if "Quantizer" in outputs:
        metrics = read_json(os.path.join(outputs["Quantizer"]["quantized_student"].uri, METRICS_FILE))
        errors = metrics.get("quantization_error") or {}
    return Layers(
        mapping=mapping,
        mapping_name=name,
        teacher_layers=depth,
        hidden_states=hidden_states,
        attention_maps=similarity.get("attention_maps") or [],
        quantization_error=errors,
    )


def _nodes(nodes: Mapping[str, NodeRun], folder: OutputFolder) -> list[Node]:
    states, peaks = {}, {}
    for event in _events(folder):
        if event["event"] == "node" and event["state"] in _STATES:
            states[event["node"]] = event["state"]
            peaks[event["node"]] = event.get("peak_bytes")
    return [
        Node(
            name=name,
            seconds=node.seconds,
            cached=states.get(name) == "cached" or (name not in states and node.seconds == 0),
            peak_bytes=peaks.get(name),
        )
        for name, node in nodes.items()
    ]


def _artifacts(nodes: Mapping[str, NodeRun], folder: OutputFolder) -> list[Artifact]:
    found = []
    for name, node in nodes.items():
        fingerprints = {key: node.properties[key] for key in _FINGERPRINTS if key in node.properties}
        for output, artifact in node.outputs.items():
            found.append(
                Artifact(
                    id=artifact.id,
                    node=name,
                    output=output,
                    kind=artifact.type,
                    uri=_relative(_destination(artifact) or artifact.uri, folder),
                    inputs=node.inputs,
                    fingerprints=fingerprints,
                )
            )
    return found


def _destination(artifact: metadata_store_pb2.Artifact) -> str:
    return artifact.custom_properties["pushed_destination"].string_value if "pushed_destination" in artifact.custom_properties else ""


def _relative(uri: str, folder: OutputFolder) -> str:
    path = pathlib.PurePath(uri)
    return str(path.relative_to(folder.path)) if path.is_relative_to(folder.path) else uri


def _data(outputs: Mapping[str, Mapping[str, Any]]) -> Data:
    examples, validated = outputs["CorpusGen"]["examples"].uri, outputs.get("DataValidator")
    return Data(
        figures=read_figures(examples),
        splits=read_statistics(outputs["StatisticsGen"]["statistics"].uri) if "StatisticsGen" in outputs else (),
        anomalies=read_anomalies(outputs["ExampleValidator"]["anomalies"].uri) if "ExampleValidator" in outputs else (),
        validation=read_validation(examples, *(validated[name].uri for name in ("statistics", "anomalies"))) if validated else None,
    )
