"""Reads back what the Evaluator wrote: the metrics of every slice, what was asked of the model, and what it reached."""

import os
from collections.abc import Iterator

import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import metrics_for_slice_pb2

from components.artifact_files import read_json
from gemma_tf_distill.report.gates import OVERALL, GateResult, gate_results

# In the folder of the `evaluation` artifact.
GATES_FILE = "gates.json"
FILES_FILE = "files.json"


def _slices(evaluation_uri: str) -> Iterator[metrics_for_slice_pb2.MetricsForSlice]:
    # The Evaluator writes no file of metrics where the split held no example.
    if tf.io.gfile.glob(os.path.join(evaluation_uri, "metrics*")):
        yield from tfma.load_metrics(evaluation_uri)


def _label(metrics_for_slice: metrics_for_slice_pb2.MetricsForSlice) -> str:
    keys = metrics_for_slice.slice_key.single_slice_keys
    return ",".join(f"{key.column}={key.bytes_value.decode(errors='replace')}" for key in keys) or OVERALL


def _values(metrics_for_slice: metrics_for_slice_pb2.MetricsForSlice, model_names: tuple[str, ...]) -> dict[str, float]:
    return {
        item.key.name: item.value.double_value.value
        for item in metrics_for_slice.metric_keys_and_values
        if item.key.model_name in model_names and not item.key.is_diff
    }


def read_metrics(evaluation_uri: str) -> dict[str, dict[str, float]]:
    """The candidate's metrics by slice.

    Args:
      evaluation_uri: of the Evaluator's `evaluation` artifact.

    Returns:
      Slice (`overall`, `source=numpy`, ...) to metric name to value, the ends of its confidence interval under the names with `_low` and
      `_high`; empty where there was no example to evaluate on.
    """
    return {_label(item): _values(item, ("", tfma.CANDIDATE_KEY)) for item in _slices(evaluation_uri)}


def read_baseline_metrics(evaluation_uri: str) -> dict[str, dict[str, float]]:
    """The same of the blessed model that the candidate was compared with; without values where there was none of the same words."""
    return {_label(item): _values(item, (tfma.BASELINE_KEY,)) for item in _slices(evaluation_uri)}


def read_gates(evaluation_uri: str) -> list[GateResult] | None:
    """What was asked of the candidate and what it reached, gate by gate; none where an Evaluator wrote it that did not record that yet."""
    path = os.path.join(evaluation_uri, GATES_FILE)
    return gate_results(read_json(path)) if tf.io.gfile.exists(path) else None


def read_files(evaluation_uri: str) -> dict[str, dict[str, float | None]]:
    """Figures of the exported files by format (see `files.read_exported`), and the teacher's `repetition_rate` under `teacher`; empty
    where an Evaluator wrote the evaluation that did not record them yet."""
    path = os.path.join(evaluation_uri, FILES_FILE)
    return read_json(path) if tf.io.gfile.exists(path) else {}
