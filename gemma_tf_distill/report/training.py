"""What happened while training: a plot for every term of the loss."""

from collections.abc import Sequence
from typing import Any

from gemma_tf_distill.report.content import Content, Curve
from gemma_tf_distill.report.markup import Markup, joined, tag
from gemma_tf_distill.report.numbers import count, is_number, significant
from gemma_tf_distill.report.plots import Axis, Series, figure, legend, lines
from gemma_tf_distill.report.tables import table

_TITLES = {
    "distill/loss": ("Loss", "what is minimised; of the control, the labels alone"),
    "distill/hard_loss": ("Labels", "cross-entropy to the text, nats a token"),
    "distill/soft_loss": ("Teacher’s probabilities", "divergence from the teacher, nats a token"),
    "distill/hidden_states_loss": ("Hidden states", "distance to the teacher’s"),
    "distill/attention_maps_loss": ("Attention maps", "distance to the teacher’s"),
    "train/gradient_norm": ("Gradient norm", "before clipping"),
}
_RUNS = {"student": "with the teacher", "control": "without the teacher", "quantized": "in its integers"}
_MOST_POINTS = 200
_MOST_ROWS = 25


def curves(content: Content) -> Markup:
    """The terms of the loss over the steps, of student, control and quantised student."""
    drawings = []
    for name, (title, unit) in _TITLES.items():
        found = [curve for curve in content.curves if curve.name == name and curve.run in _RUNS and _points(curve)]
        if found:
            drawings.append(_drawing(name, title, unit, found))
    if not drawings:
        return tag("p", "No scalars were recorded while training.", class_="note")
    kinds = [(run, f"{run}: {words}") for run, words in _RUNS.items() if any(curve.run == run for curve in content.curves)]
    return joined(legend(kinds), tag("div", *drawings, class_="plots"))


def _drawing(name: str, title: str, unit: str, found: Sequence[Curve]) -> Markup:
    series = []
    for curve in found:
        points = thinned(_points(curve), _MOST_POINTS)
        series.append(Series(kind=curve.run, label=curve.run, xs=[x for x, _ in points], ys=[y for _, y in points]))
    ends = ", ".join(f"{one.label} from {significant(one.ys[0])} to {significant(one.ys[-1])}" for one in series)
    drawing = lines(
        name.replace("/", "-"),
        title,
        f"{title}, {unit}, over optimizer steps: {ends}.",
        series,
        Axis(label="optimizer steps", format=count),
        Axis(label="", log_from=3),
    )
    values = {one.label: dict(zip(one.xs, one.ys, strict=True)) for one in series}
    steps = thinned(sorted({step for one in values.values() for step in one}), _MOST_ROWS)
    rows = [(count(step), *(significant(values[one.label].get(step)) for one in series)) for step in steps]
    data = table(("step", *(one.label for one in series)), rows, name=f"{title}: numbers", texts=0)
    return figure(joined(title, tag("small", unit[0].upper() + unit[1:])), drawing, data)


def _points(curve: Curve) -> list[tuple[int, float]]:
    return [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if is_number(value)]


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spread, the first and the last always among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
