"""Plots as inline SVG: they scale with the page, take its colours, and say in words what they show.

Series and kinds of points differ in shape and dash, not in colour alone. What a point is appears while it is hovered over or focused.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from gemma_tf_distill.report.markup import Markup, tag
from gemma_tf_distill.report.numbers import significant
from gemma_tf_distill.report.scales import Scale

WIDTH, HEIGHT = 460, 310
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 30, 42
_LETTER = 6.3  # Width of a letter at the size of labels, about.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis.

    Attributes:
      label: what it shows, with its unit; empty where the caption says it.
      format: a value as text.
      log_from: see `Scale.of`.
    """

    label: str
    format: Callable[[float], str] = significant
    log_from: float = float("inf")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A mark.

    Attributes:
      x: finite.
      y: finite.
      kind: its class, which decides about shape and colour; one of `SHAPES`.
      label: beside it, where there is room; empty: none.
      tip: all about it, in a line.
    """

    x: float
    y: float
    kind: str
    label: str
    tip: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A line.

    Attributes:
      kind: as of `Point`.
      label: at its end.
      xs: rising.
      ys: one for each.
    """

    kind: str
    label: str
    xs: Sequence[float]
    ys: Sequence[float]


SHAPES = {
    "this": "circle",
    "run": "square",
    "rejected": "cross",
    "push": "diamond",
    "bound": "triangle",
    "student": "circle",
    "control": "square",
    "quantized": "triangle",
}


def mark(kind: str, x: float, y: float, radius: float = 5.5) -> Markup:
    """The shape of a kind of points, around a place."""
    shape, r = SHAPES[kind], radius
    style = f"mark k-{kind}"
    if shape == "circle":
        return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=r, class_=style)
    if shape == "square":
        return tag("rect", x=f"{x - r * 0.9:.1f}", y=f"{y - r * 0.9:.1f}", width=f"{1.8 * r:.1f}", height=f"{1.8 * r:.1f}", class_=style)
    if shape == "cross":
        path = f"M{x - r:.1f} {y - r:.1f}L{x + r:.1f} {y + r:.1f}M{x - r:.1f} {y + r:.1f}L{x + r:.1f} {y - r:.1f}"
        return tag("path", d=path, class_=f"{style} open")
    corners = {"diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)], "triangle": [(0, -1.2), (1.15, 0.85), (-1.15, 0.85)]}[shape]
    return tag("polygon", points=" ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in corners), class_=style)


def scatter(key: str, title: str, description: str, points: Sequence[Point], x: Axis, y: Axis, front: Sequence[Point] = ()) -> Markup:
    """Points, and a stepped line through those that no other one beats.

    Args:
      key: a name that no other plot of the page has.
      title: what the plot is, for who hears it.
      description: what is to be seen in it.
      points: at least one.
      x: the axis to the right.
      y: the axis upwards.
      front: some of the points, from left to right.
    """
    to_x = Scale.of([point.x for point in points], _LEFT, WIDTH - _RIGHT, log_from=x.log_from)
    to_y = Scale.of([point.y for point in points], HEIGHT - _BOTTOM, _TOP, log_from=y.log_from)
    line = None
    if len(front) > 1:
        places = " ".join(f"{to_x(point.x):.1f},{to_y(point.y):.1f}" for point in front)
        line = tag("polyline", points=places, class_="front")
    taken = [(to_x(point.x) - 7, to_y(point.y) - 7, to_x(point.x) + 7, to_y(point.y) + 7) for point in points]
    marks = []
    # What matters most is labelled first, and drawn last.
    for point in sorted(points, key=lambda point: list(SHAPES).index(point.kind)):
        px, py = to_x(point.x), to_y(point.y)
        label = _label(point.label, px, py, taken)
        marks.append(_focusable(point.tip, mark(point.kind, px, py, 6.5 if point.kind == "this" else 5.5), label))
    return _drawing(key, title, description, _axes(to_x, to_y, x, y), line, *reversed(marks))


def lines(
    key: str, title: str, description: str, series: Sequence[Series], x: Axis, y: Axis, bound: tuple[str, float] | None = None
) -> Markup:
    """Lines over a common axis, each with its name at the end.

    Args:
      key: a name that no other plot of the page has.
      title: what the plot is, for who hears it.
      description: what is to be seen in it.
      series: at least one, none of them empty.
      x: the axis to the right.
      y: the axis upwards.
      bound: name and value of a level to compare with.
    """
    right = _RIGHT + _LETTER * max(len(one.label) for one in series) + 10
    levels = [value for one in series for value in one.ys] + ([bound[1]] if bound else [])
    to_x = Scale.of([value for one in series for value in one.xs], _LEFT, WIDTH - right)
    to_y = Scale.of(levels, HEIGHT - _BOTTOM, _TOP, log_from=y.log_from)
    parts: list[Markup] = []
    if bound:
        place = to_y(bound[1])
        parts.append(tag("line", x1=_LEFT, x2=f"{WIDTH - right:.1f}", y1=f"{place:.1f}", y2=f"{place:.1f}", class_="bound"))
        parts.append(tag("text", bound[0], x=_LEFT + 6, y=f"{place - 5:.1f}", class_="label"))
    ends = _apart([to_y(one.ys[-1]) for one in series])
    for one, end in zip(series, ends, strict=True):
        places = [(to_x(px), to_y(py)) for px, py in zip(one.xs, one.ys, strict=True)]
        parts.append(tag("polyline", points=" ".join(f"{px:.1f},{py:.1f}" for px, py in places), class_=f"series k-{one.kind}"))
        every = max(1, len(places) // 6)
        shown = sorted({*range(every // 2, len(places) - every // 2, every), len(places) - 1})
        for place in shown[:-1]:
            parts.append(mark(one.kind, places[place][0], places[place][1], 3.2))
        label = tag("text", one.label, x=f"{WIDTH - right + 8:.1f}", y=f"{end + 4:.1f}", class_=f"label name k-{one.kind}")
        tip = f"{one.label}: {y.format(one.ys[-1])} at the end, {y.format(min(one.ys))} at the least"
        parts.append(_focusable(tip, mark(one.kind, places[-1][0], places[-1][1], 4.5), label))
    return _drawing(key, title, description, _axes(to_x, to_y, x, y), *parts)


def _drawing(key: str, title: str, description: str, *parts: Markup | None) -> Markup:
    return tag(
        "svg",
        tag("title", title, id=f"{key}-title"),
        tag("desc", description, id=f"{key}-desc"),
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="group",
        aria_labelledby=f"{key}-title",
        aria_describedby=f"{key}-desc",
        class_="plot",
        xmlns="http://www.w3.org/2000/svg",
    )


def _focusable(tip: str, *parts: Markup | None) -> Markup:
    words = tag("text", tip, x=_LEFT, y=14, class_="tip", aria_hidden="true")
    return tag("g", *parts, words, class_="point", tabindex=0, role="img", aria_label=tip)


def _axes(to_x: Scale, to_y: Scale, x: Axis, y: Axis) -> Markup:
    parts = []
    for value in to_y.ticks():
        place = f"{to_y(value):.1f}"
        parts.append(tag("line", x1=_LEFT, x2=f"{to_x.end:.1f}", y1=place, y2=place, class_="grid"))
        parts.append(tag("text", y.format(value), x=_LEFT - 7, y=f"{to_y(value) + 4:.1f}", class_="tick", text_anchor="end"))
    for value in to_x.ticks():
        place = f"{to_x(value):.1f}"
        parts.append(tag("line", x1=place, x2=place, y1=HEIGHT - _BOTTOM, y2=HEIGHT - _BOTTOM + 4, class_="axis"))
        parts.append(tag("text", x.format(value), x=place, y=HEIGHT - _BOTTOM + 17, class_="tick", text_anchor="middle"))
    base = HEIGHT - _BOTTOM
    parts.append(tag("line", x1=_LEFT, x2=f"{to_x.end:.1f}", y1=base, y2=base, class_="axis"))
    parts.append(tag("text", x.label, x=f"{(_LEFT + to_x.end) / 2:.1f}", y=HEIGHT - 6, class_="label", text_anchor="middle"))
    if y.label:
        # Above the axis and not along it: text that stands on its side is hard to read. Tips take its place.
        parts.append(tag("text", y.label, x=4, y=14, class_="label ylabel"))
    return tag("g", *parts, aria_hidden="true")


def _label(label: str, x: float, y: float, taken: list[tuple[float, float, float, float]]) -> Markup | None:
    """A label at the first of its places that is free; none where there is no such place. What it takes is added to `taken`."""
    width = _LETTER * len(label)
    if not label:
        return None
    for anchor, left, baseline in (
        ("start", x + 10, y + 4),
        ("end", x - 10 - width, y + 4),
        ("middle", x - width / 2, y - 11),
        ("middle", x - width / 2, y + 19),
    ):
        box = (left, baseline - 11, left + width, baseline + 3)
        inside = box[0] >= _LEFT and box[2] <= WIDTH and box[1] >= _TOP - 8 and box[3] <= HEIGHT - _BOTTOM
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            taken.append(box)
            place = {"start": left, "end": left + width, "middle": x}[anchor]
            return tag("text", label, x=f"{place:.1f}", y=f"{baseline:.1f}", class_="label", text_anchor=anchor)
    return None


def _apart(places: Sequence[float], least: float = 14) -> list[float]:
    """The places, moved so that no two are nearer than `least`, in the same order."""
    moved = list(places)
    order = sorted(range(len(moved)), key=lambda index: moved[index])
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + least)
    overflow = max(0.0, moved[order[-1]] - (HEIGHT - _BOTTOM)) if order else 0.0
    return [place - overflow for place in moved]


def legend(kinds: Sequence[tuple[str, str]]) -> Markup:
    """Shapes and what they stand for."""
    entries = [
        tag("li", tag("svg", mark(kind, 8, 8, 5), viewBox="0 0 16 16", class_="key", aria_hidden="true"), label) for kind, label in kinds
    ]
    return tag("ul", *entries, class_="legend")


def figure(caption: str, drawing: Markup, data: Markup, note: Markup | None = None) -> Markup:
    """A plot with its caption, and its numbers behind `data`."""
    return tag("figure", tag("figcaption", caption), drawing, note, tag("details", tag("summary", "Numbers"), data))
