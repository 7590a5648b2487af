"""TFMA metrics of a language model: sums of the `eval` signature's outputs, divided by the tokens that they were summed over.

A metric is NaN where an output is missing, not a number, or was summed over no token: TFMA's thresholds are comparisons, so NaN
fails each of them and a model is never blessed by accident.
"""

import math
from collections.abc import Callable, Iterable

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma

OUTPUTS = ("nll_sum", "kl_sum", "top1_hits", "teacher_nll_sum", "token_count")
"""The outputs of the exported `eval` signature, each float32 [batch]: sums over a window's counted labels (nats, hits, tokens)."""

Formula = Callable[[float, float, float, float, float], float]
"""The value of a metric from the totals of `OUTPUTS`, in that order."""


class _Totals(beam.CombineFn):
    """Adds up `OUTPUTS` over windows in float64 and applies a formula at the end."""

    def __init__(self, key: tfma.metrics.MetricKey, formula: Formula):
        self._key = key
        self._formula = formula

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(len(OUTPUTS))

    def add_input(self, accumulator: np.ndarray, element: tfma.metrics.StandardMetricInputs) -> np.ndarray:
        predictions = element.get_predictions(self._key.model_name)
        return accumulator + [np.sum(predictions.get(name, np.nan), dtype=np.float64) for name in OUTPUTS]

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return np.sum(list(accumulators), axis=0)

    def extract_output(self, accumulator: np.ndarray) -> dict[tfma.metrics.MetricKey, float]:
        totals = accumulator.tolist()
        usable = all(math.isfinite(total) for total in totals) and totals[-1] > 0
        return {self._key: self._formula(*totals) if usable else math.nan}


class TokenMetric(tfma.metrics.Metric):
    """A metric of the tokens of a slice.

    Subclasses say the name under which TFMA reports it and its formula.
    """

    NAME: str
    FORMULA: Formula

    def __init__(self, name: str = "", source_digest: str = ""):
        """Initialises the metric.

        Args:
          name: the name to report it by, `NAME` where it is empty.
          source_digest: of this code. It is here only to become a part of the Evaluator's cache key.
        """
        super().__init__(self._computations, name=name or self.NAME)
        self.source_digest = source_digest

    @classmethod
    def _computations(cls, name: str, model_names: list[str] | None = None) -> tfma.metrics.MetricComputations:
        keys = [tfma.metrics.MetricKey(name=name, model_name=model_name) for model_name in model_names or [""]]
        return [tfma.metrics.MetricComputation(keys=[key], preprocessors=None, combiner=_Totals(key, cls.FORMULA)) for key in keys]


def _perplexity_ratio(nll: float, kl: float, hits: float, teacher_nll: float, tokens: float) -> float:
    try:
        return math.exp((nll - teacher_nll) / tokens)
    except OverflowError:  # A model of nats in the hundreds is as bad as a float can say.
        return math.inf


class HeldoutNll(TokenMetric):
    """The student's cross-entropy, nats a token."""

    NAME = "heldout_nll"
    FORMULA = staticmethod(lambda nll, kl, hits, teacher_nll, tokens: nll / tokens)


class TeacherHeldoutNll(TokenMetric):
    """The teacher's cross-entropy on the same tokens, nats a token."""

    NAME = "teacher_heldout_nll"
    FORMULA = staticmethod(lambda nll, kl, hits, teacher_nll, tokens: teacher_nll / tokens)


class KlToTeacher(TokenMetric):
    """KL divergence from the teacher to the student over the teacher's top words and one tail bucket, nats a token."""

    NAME = "kl_to_teacher"
    FORMULA = staticmethod(lambda nll, kl, hits, teacher_nll, tokens: kl / tokens)


class Top1Agreement(TokenMetric):
    """Share of the tokens where student and teacher rank the same word first."""

    NAME = "top1_agreement"
    FORMULA = staticmethod(lambda nll, kl, hits, teacher_nll, tokens: hits / tokens)


class PerplexityVsTeacher(TokenMetric):
    """The student's perplexity over the teacher's: the exponential of the difference of their cross-entropies."""

    NAME = "perplexity_vs_teacher"
    FORMULA = staticmethod(_perplexity_ratio)


class Tokens(TokenMetric):
    """Tokens that the other metrics are averaged over."""

    NAME = "tokens"
    FORMULA = staticmethod(lambda nll, kl, hits, teacher_nll, tokens: tokens)


METRICS: tuple[type[TokenMetric], ...] = (HeldoutNll, TeacherHeldoutNll, KlToTeacher, Top1Agreement, PerplexityVsTeacher, Tokens)
