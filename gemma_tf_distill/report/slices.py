"""The Evaluator's figures slice by slice."""

from collections.abc import Collection, Mapping
from typing import Any

from gemma_tf_distill.report.content import Content
from gemma_tf_distill.report.gates import HIGH, LOW, OVERALL
from gemma_tf_distill.report.markup import Markup, joined, tag
from gemma_tf_distill.report.metrics import IMPLIED, METRICS, metric_text, with_interval
from gemma_tf_distill.report.numbers import is_number
from gemma_tf_distill.report.tables import table

_MOST_SLICES = 40


def slices(content: Content) -> Markup:
    """The Evaluator's metrics, of everything and slice by slice, with their intervals."""
    found = content.slices
    if not found:
        return tag("p", "The Evaluator wrote no metrics.", class_="note")
    names = {name for values in found.values() for name in values}
    columns = [*(name for name in METRICS if name in names), *_others(names)]
    order = sorted((name for name in found if name != OVERALL), key=lambda name: (-_tokens(found[name]), name))
    listed = [name for name in (OVERALL, *order) if name in found][:_MOST_SLICES]
    rows = [(name, *(_metric(column, found[name]) for column in columns)) for name in listed]
    header = ("slice", *(METRICS[name][0] if name in METRICS else name.replace("_", " ") for name in columns))
    notes = []
    if any(name + LOW in names for name in columns):
        notes.append("Below a figure: its 95 % confidence interval, by bootstrap over windows; a slice of one window has none.")
    if left_out := len(found) - len(listed):
        notes.append(f"{left_out} slices of fewer tokens are left out.")
    return joined(table(header, rows, name="Slices"), *(tag("p", note, class_="note") for note in notes))


def _others(names: Collection[str]) -> list[str]:
    """Figures that have no column of their own: neither ends of intervals nor what other columns say."""
    ends = {name + end for name in names for end in (LOW, HIGH)}
    return sorted(name for name in names if name not in METRICS and name not in IMPLIED and name not in ends)


def _tokens(values: Mapping[str, Any]) -> float:
    value = values.get("tokens")
    return float(value) if is_number(value) else 0.0


def _metric(name: str, values: Mapping[str, Any]) -> Markup:
    # How many tokens there are is known, and the teacher is not the one that is judged.
    plain = name == "tokens" or name.startswith("teacher_")
    ends = (None, None) if plain else (values.get(name + LOW), values.get(name + HIGH))
    return with_interval(lambda value: metric_text(name, value), values.get(name), *ends)
