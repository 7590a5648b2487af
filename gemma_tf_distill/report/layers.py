"""Student and teacher layer by layer, and what rounding does to each."""

import re
from collections.abc import Sequence

from gemma_tf_distill.report.content import Content, Layers
from gemma_tf_distill.report.markup import Markup, joined, tag
from gemma_tf_distill.report.numbers import MISSING, decimal, percent
from gemma_tf_distill.report.plots import figure
from gemma_tf_distill.report.tables import bar, table

_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


def layers(content: Content) -> Markup:
    """The mapping, similarity of features and attention, and quantisation error, as far as they were recorded."""
    found = content.layers
    parts: list[Markup | None] = []
    if found.mapping:
        parts += [_table(found), tag("p", _note(found), class_="note")]
    maps = []
    for key, title, matrix in (
        ("hidden-states", "Hidden states", found.hidden_states),
        ("attention-maps", "Attention maps", found.attention_maps),
    ):
        if matrix:
            maps.append(_heat(key, title, matrix, {(mine, theirs) for theirs, mine in found.mapping}))
    if maps:
        parts.append(tag("div", *maps, class_="plots"))
    if found.quantization_error:
        parts += [tag("h3", "Quantisation error"), _errors(found)]
    missing = [
        name
        for name, there in (
            ("layer mapping", found.mapping),
            ("similarity of hidden states", found.hidden_states),
            ("similarity of attention maps", found.attention_maps),
            ("quantisation error", found.quantization_error or not content.this_run.scheme),
        )
        if not there
    ]
    if missing:
        parts.append(tag("p", f"Not recorded in this run: {', '.join(missing)}.", class_="note"))
    return joined(*parts)


def _table(found: Layers) -> Markup:
    errors = _by_layer(found)
    header = ["Student’s layer", "Teacher’s layer"]
    header += ["hidden states alike"] if found.hidden_states else []
    header += ["attention alike"] if found.attention_maps else []
    header += ["error of rounding"] if errors else []
    worst = max(errors.values(), default=0) or 1
    rows = []
    for theirs, mine in found.mapping:
        row: list[object] = [mine, theirs]
        for matrix in (found.hidden_states, found.attention_maps):
            if matrix:
                value = _at(matrix, mine, theirs)
                row.append(MISSING if value is None else bar(value, decimal(value, 2)))
        if errors:
            error = errors.get(mine)
            row.append(MISSING if error is None else bar(error / worst, percent(error)))
        rows.append(row)
    return table(header, rows, name="Layers", class_="many")


def _note(found: Layers) -> str:
    depth = f" (of the teacher’s {found.teacher_layers})" if found.teacher_layers else ""
    words = [f"Pairs: {found.mapping_name}{depth}."]
    if found.hidden_states:
        words.append("Hidden states: linear CKA (Kornblith et al. 2019), 1 where one is the other rotated and scaled.")
    if found.attention_maps:
        words.append("Attention: cosine of where the tokens look, averaged over heads.")
    return " ".join(words)


def _at(matrix: Sequence[Sequence[float]], row: int, column: int) -> float | None:
    return matrix[row][column] if row < len(matrix) and column < len(matrix[row]) else None


def _heat(key: str, title: str, matrix: Sequence[Sequence[float]], pairs: set[tuple[int, int]]) -> Markup:
    """Student's layers downwards, teacher's to the right; compared pairs are framed."""
    columns, rows = len(matrix[0]), len(matrix)
    cell = min(40.0, 410 / columns)
    left, top = 40, 34
    parts: list[Markup] = []
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            x, y = left + column * cell, top + row * cell
            words = f"student’s layer {row}, teacher’s layer {column}: {decimal(value, 2)}"
            box = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{cell - 1:.1f}", "height": f"{cell - 1:.1f}"}
            opacity = f"{0.04 + 0.9 * min(1.0, max(0.0, value)):.2f}"
            parts.append(tag("g", tag("title", words), tag("rect", **box, class_="cell", fill_opacity=opacity)))
            if (row, column) in pairs:
                parts.append(tag("rect", **box, class_="pair"))
    every = max(1, round(24 / cell))
    parts += [
        tag("text", column, x=f"{left + (column + 0.5) * cell:.1f}", y=top - 7, class_="tick cell-text")
        for column in range(0, columns, every)
    ]
    parts += [
        tag("text", row, x=left - 8, y=f"{top + (row + 0.5) * cell + 4:.1f}", class_="tick", text_anchor="end")
        for row in range(0, rows, every)
    ]
    parts.append(tag("text", "↓ student   → teacher", x=4, y=12, class_="label"))
    alike = [max(range(columns), key=lambda column: values[column]) for values in matrix]
    description = f"{rows} student layers by {columns} teacher layers. Most alike: " + ", ".join(
        f"{row} and {column}" for row, column in enumerate(alike)
    )
    drawing = tag(
        "svg",
        tag("title", f"{title}: how alike the layers are", id=f"{key}-title"),
        tag("desc", description, id=f"{key}-desc"),
        *parts,
        viewBox=f"0 0 460 {top + rows * cell + 6:.0f}",
        role="img",
        aria_labelledby=f"{key}-title",
        aria_describedby=f"{key}-desc",
        class_="plot",
        xmlns="http://www.w3.org/2000/svg",
    )
    data = table(
        ("student", *range(columns)),
        [(row, *(decimal(value, 2) for value in values)) for row, values in enumerate(matrix)],
        name=f"{title}: numbers",
    )
    return figure(joined(title, tag("small", "The stronger the colour, the more alike; framed: the pairs above.")), drawing, data)


def _by_layer(found: Layers) -> dict[int, float]:
    """The mean error of a layer's matrices."""
    grouped: dict[int, list[float]] = {}
    for name, error in found.quantization_error.items():
        if match := _LAYER.fullmatch(name):
            grouped.setdefault(int(match[1]), []).append(error)
    return {layer: sum(errors) / len(errors) for layer, errors in grouped.items()}


def _errors(found: Layers) -> Markup:
    """The error of each matrix: a row for each layer, the matrices that are of no layer in a sentence."""
    rows: dict[int, dict[str, float]] = {}
    others = []
    for name, error in found.quantization_error.items():
        if match := _LAYER.fullmatch(name):
            rows.setdefault(int(match[1]), {})[match[2]] = error
        else:
            others.append(f"{name} {percent(error)}")
    note = "Root mean square of what rounding changes in a matrix, over that of its weights in float"
    words = tag("p", f"{note}: {', '.join(others)}; those of the layers follow." if others else f"{note}.", class_="note")
    if not rows:
        return words
    columns = list(dict.fromkeys(kind for values in rows.values() for kind in values))
    shown = [(layer, *(percent(values.get(kind)) for kind in columns)) for layer, values in sorted(rows.items())]
    data = table(("layer", *(column.replace("_", " ") for column in columns)), shown, name="Quantisation error")
    return joined(words, tag("details", tag("summary", "Matrix by matrix"), data))
