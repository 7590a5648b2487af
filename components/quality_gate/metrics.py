"""One TFMA metric with all figures of a language model: sums of the `eval` signature's outputs, and ratios of them.

A figure is NaN where an output is missing, not a number, or was summed over no token: TFMA's thresholds are comparisons, so NaN
fails each of them and a model is never blessed by accident.
"""

import math
from collections.abc import Iterable, Mapping

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from numpy.typing import ArrayLike

from components.quality_gate.bootstrap import interval, resampled_sums
from gemma_tf_distill.export.token_sums import CALIBRATION, CALIBRATION_BINS, SUMS
from gemma_tf_distill.report.gates import HIGH, LOW

METRICS = (
    "heldout_nll",
    "perplexity",
    "bits_per_byte",
    "kl_to_teacher",
    "top1_agreement",
    "top5_agreement",
    "ece",
    "perplexity_vs_teacher",
    "teacher_heldout_nll",
    "teacher_perplexity",
    "teacher_bits_per_byte",
    "teacher_ece",
    "tokens",
)
"""Figures of a model on a slice; `figures` says what they are."""

REGRESSION = "regression_vs_baseline"
"""The rise of the candidate's held-out NLL over the baseline's, as a fraction of it; only where there is a baseline."""

_COLUMNS = len(SUMS) + len(CALIBRATION) * CALIBRATION_BINS
# What does not depend on the model: windows of two models that are ordered by it are paired.
_OF_THE_WINDOW = [SUMS.index(name) for name in ("teacher_nll_sum", "token_count", "byte_count")]


def figures(totals: np.ndarray) -> dict[str, np.ndarray]:
    """The figures that sums come to.

    Args:
      totals: float64 [..., 37], the `SUMS` and the `CALIBRATION` bins of `token_sums`, added over windows.

    Returns:
      float64 [...] each: `heldout_nll`, `kl_to_teacher` in nats a token; `perplexity`, and `perplexity_vs_teacher`, over the teacher's;
      `bits_per_byte`; `top1_agreement` and `top5_agreement`, shares of tokens; `ece`, the expected calibration error over 15 bins of
      confidence of equal width (Guo et al. 2017, eq. 3); the teacher's own with the prefix `teacher_`; `tokens`.
    """
    nll, kl, top1, top5, teacher_nll, tokens, text_bytes = np.moveaxis(totals[..., : len(SUMS)], -1, 0)
    gaps, teacher_gaps = np.moveaxis(totals[..., len(SUMS) :].reshape(*totals.shape[:-1], 2, CALIBRATION_BINS), -2, 0)
    # A perplexity over what a float can hold is infinite, a ratio without tokens or bytes is no number.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return {
            "heldout_nll": nll / tokens,
            "perplexity": np.exp(nll / tokens),
            "bits_per_byte": nll / text_bytes / math.log(2),
            "kl_to_teacher": kl / tokens,
            "top1_agreement": top1 / tokens,
            "top5_agreement": top5 / tokens,
            "ece": np.abs(gaps).sum(-1) / tokens,
            "perplexity_vs_teacher": np.exp((nll - teacher_nll) / tokens),
            "teacher_heldout_nll": teacher_nll / tokens,
            "teacher_perplexity": np.exp(teacher_nll / tokens),
            "teacher_bits_per_byte": teacher_nll / text_bytes / math.log(2),
            "teacher_ece": np.abs(teacher_gaps).sum(-1) / tokens,
            "tokens": tokens,
        }


def rise(value: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    """How much a value, or each of many, is above the baseline's, as a fraction of it; rounded as TFMA does it."""
    return np.divide(np.subtract(value, baseline), baseline)


class _Windows(beam.CombineFn):
    """Keeps a row of sums a window and model, float32, and makes figures of them in float64 at the end."""

    def __init__(self, model_names: list[str]):
        self._models = model_names

    def create_accumulator(self) -> list[np.ndarray]:
        return []

    def add_input(self, accumulator: list[np.ndarray], element: tfma.metrics.StandardMetricInputs) -> list[np.ndarray]:
        accumulator.append(np.stack([_row(element.get_predictions(model)) for model in self._models]))
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
        return [row for accumulator in accumulators for row in accumulator]

    def extract_output(self, accumulator: list[np.ndarray]) -> dict[tfma.metrics.MetricKey, float]:
        rows = np.array(accumulator, np.float32).reshape(-1, len(self._models), _COLUMNS)
        found: dict[tfma.metrics.MetricKey, float] = {}
        draws = {}
        for index, model in enumerate(self._models):
            values, draws[model] = _estimates(_ordered(rows[:, index]))
            found |= {_key(name, model): value for name, value in values.items()}
        if tfma.BASELINE_KEY in self._models and tfma.CANDIDATE_KEY in self._models:
            pair = [_key("heldout_nll", name) for name in (tfma.CANDIDATE_KEY, tfma.BASELINE_KEY)]
            low, high = interval(rise(*(draws[key.model_name] for key in pair)))
            values = {REGRESSION: float(rise(*(found[key] for key in pair))), REGRESSION + LOW: low, REGRESSION + HIGH: high}
            found |= {_key(name, tfma.CANDIDATE_KEY): value for name, value in values.items()}
        return found


def _key(name: str, model: str) -> tfma.metrics.MetricKey:
    # TFMA looks for thresholds that are given by a metric's name under the key that says nothing of weights.
    return tfma.metrics.MetricKey(name=name, model_name=model, example_weighted=None)


def _row(predictions: Mapping[str, np.ndarray]) -> np.ndarray:
    """The sums of one window float32 [37], NaN for what is not among a model's outputs."""
    widths = {**dict.fromkeys(SUMS, 1), **dict.fromkeys(CALIBRATION, CALIBRATION_BINS)}
    parts = {name: np.ravel(predictions[name]) if name in predictions else np.zeros(0) for name in widths}
    return np.concatenate([parts[name] if parts[name].size == size else np.full(size, np.nan) for name, size in widths.items()])


def _ordered(rows: np.ndarray) -> np.ndarray:
    """In an order that does not depend on how Beam distributed them."""
    keys = [rows[:, column] for column in [*range(_COLUMNS), *_OF_THE_WINDOW]]
    return rows[np.lexsort(keys)]


def _estimates(rows: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """The figures of windows float32 [n, 37] with the ends of their intervals, and the resampled held-out NLL."""
    totals = rows.sum(axis=0, dtype=np.float64)
    if not np.isfinite(totals).all() or totals[SUMS.index("token_count")] <= 0:
        return {name + end: math.nan for name in METRICS for end in ("", LOW, HIGH)}, np.array([math.nan])
    values = {name: float(value) for name, value in figures(totals).items()}
    # One window drawn again is the same window: that says nothing of how another one would be.
    draws = figures(resampled_sums(rows)) if len(rows) > 1 else {name: np.array([math.nan]) for name in METRICS}
    for name in METRICS:
        values[name + LOW], values[name + HIGH] = interval(draws[name])
    return values, draws["heldout_nll"]


class LanguageModelMetrics(tfma.metrics.Metric):
    """`METRICS` of every model on a slice, each with a confidence interval by bootstrap over windows, and `REGRESSION`."""

    def __init__(self, name: str = "language_model"):
        """Initialises the metric; its figures are reported by their own names."""
        super().__init__(_computations, name=name)


def _computations(name: str, model_names: list[str] | None = None) -> tfma.metrics.MetricComputations:
    models = list(model_names or [""])
    names = [metric + end for metric in METRICS for end in ("", LOW, HIGH)]
    keys = [_key(metric, model) for model in models for metric in names]
    return [tfma.metrics.MetricComputation(keys=keys, preprocessors=None, combiner=_Windows(models))]
