"""The Evaluator's figures as people read them: their names, their units, their intervals."""

from collections.abc import Callable
from typing import Any

from gemma_tf_distill.report.markup import Markup, joined, tag
from gemma_tf_distill.report.numbers import MISSING, count, decimal, is_number, percent, significant, size, times

METRICS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "tokens": ("tokens", count),
    "heldout_nll": ("NLL", decimal),
    "teacher_heldout_nll": ("teacher’s NLL", decimal),
    "perplexity_vs_teacher": ("perplexity vs teacher", times),
    "bits_per_byte": ("bits a byte", decimal),
    "teacher_bits_per_byte": ("teacher’s bits a byte", decimal),
    "kl_to_teacher": ("KL to teacher", decimal),
    "top1_agreement": ("same first choice", percent),
    "top5_agreement": ("teacher’s first in five", percent),
    "ece": ("calibration error", decimal),
    "teacher_ece": ("teacher’s calibration error", decimal),
}
"""A name and a format for each figure of a slice, in the order of a table."""

IMPLIED = ("perplexity", "teacher_perplexity", "regression_vs_baseline")
"""Figures that a table of slices leaves out: exponentials of others in it, and what is a gate."""

_FORMATS: dict[str, Callable[[Any], str]] = {
    **{name: shown for name, (_, shown) in METRICS.items()},
    "bytes": size,
    "repetition_rate": percent,
    "gap_closed": percent,
    "parity_failures": count,
}


def metric_text(metric: str, value: Any) -> str:
    """A figure with its unit; one that is not known by name has four digits that count, and text as it is."""
    if not is_number(value):
        return MISSING if value is None or isinstance(value, float) else str(value)
    return _FORMATS.get(metric, _plain)(value)


def with_interval(text: Callable[[Any], str], value: Any, low: Any, high: Any) -> Markup:
    """A figure, and below it the ends of its interval where both are known."""
    ends = tag("span", _range(low, high, text), class_="sub") if is_number(low) and is_number(high) else None
    return joined(text(value), ends)


def _range(low: float, high: float, text: Callable[[Any], str]) -> str:
    first, last = text(low), text(high)
    number, _, unit = first.partition(" ")
    between = "–" if low >= 0 else " to "
    return f"{number if unit and last.endswith(f' {unit}') else first}{between}{last}"


def _plain(value: Any) -> str:
    return count(value) if abs(value) >= 1000 else significant(value)
