"""Reads back what the Evaluator wrote: the metrics of every slice, and the gates that a model failed."""

import dataclasses
import math
import os
from collections.abc import Iterator

import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import metrics_for_slice_pb2

from components.quality_gate import metrics

OVERALL = "overall"

_GATES = {
    metrics.HeldoutNll.NAME: "max_heldout_nll",
    metrics.PerplexityVsTeacher.NAME: "max_perplexity_vs_teacher",
    metrics.KlToTeacher.NAME: "max_kl_to_teacher",
    metrics.Top1Agreement.NAME: "min_top1_agreement",
    metrics.Tokens.NAME: "tokens",
}


@dataclasses.dataclass(frozen=True)
class GateFailure:
    """A threshold that a model did not meet.

    Attributes:
      gate: the config's key, such as `max_heldout_nll`; `tokens` where there was nothing to judge on.
      metric: the metric it looks at.
      value: what the model reached; NaN where the metric is missing. For `max_regression_vs_baseline`: the rise of the metric
        over the baseline's, as a fraction of it.
      limit: what the gate asks for.
    """

    gate: str
    metric: str
    value: float
    limit: float

    def __str__(self) -> str:
        if self.gate == "max_regression_vs_baseline":
            return f"{self.metric} is {self.value:+.1%} of the blessed baseline's, gates.{self.gate} allows {self.limit:+.1%}"
        if self.gate == "tokens":
            return "there was no held-out token to judge the model on, or its eval signature gave no number"
        bound = "at least" if self.gate.startswith("min_") else "at most"
        return f"{self.metric} is {self.value:.4f}, gates.{self.gate} asks for {bound} {self.limit:g}"


def _slices(evaluation_uri: str) -> Iterator[metrics_for_slice_pb2.MetricsForSlice]:
    # The Evaluator writes no file of metrics where the split held no example.
    if tf.io.gfile.glob(os.path.join(evaluation_uri, "metrics*")):
        yield from tfma.load_metrics(evaluation_uri)


def _label(metrics_for_slice: metrics_for_slice_pb2.MetricsForSlice) -> str:
    keys = metrics_for_slice.slice_key.single_slice_keys
    return ",".join(f"{key.column}:{key.bytes_value.decode(errors='replace')}" for key in keys) or OVERALL


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
      Slice (`overall`, `source:numpy`, ...) to metric name to value; empty where there was no example to evaluate on.
    """
    return {_label(item): _values(item, ("", tfma.CANDIDATE_KEY)) for item in _slices(evaluation_uri)}


def read_failures(evaluation_uri: str) -> list[GateFailure]:
    """The gates that the candidate failed on the overall slice; empty for a blessed model."""
    result = tfma.load_validation_result(evaluation_uri)
    if result.validation_ok:
        return []
    baseline = {_label(item): _values(item, (tfma.BASELINE_KEY,)) for item in _slices(evaluation_uri)}.get(OVERALL, {})
    failures = []
    for item in result.metric_validations_per_slice:
        for failure in item.failures:
            name = failure.metric_key.name
            value = failure.metric_value.double_value.value if failure.HasField("metric_value") else math.nan
            if failure.metric_threshold.HasField("change_threshold"):
                limit = failure.metric_threshold.change_threshold.relative.value
                failures.append(GateFailure("max_regression_vs_baseline", name, value / (baseline.get(name) or math.nan), limit))
            else:
                bounds = failure.metric_threshold.value_threshold
                limit = bounds.upper_bound.value if bounds.HasField("upper_bound") else bounds.lower_bound.value
                failures.append(GateFailure(_GATES[name], name, value, limit))
    return failures or [GateFailure("tokens", metrics.Tokens.NAME, 0.0, 1.0)]
