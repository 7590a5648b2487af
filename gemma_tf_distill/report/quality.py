"""How good the model is: beside its teacher and its controls, against size and speed of other runs, file by file."""

from collections.abc import Callable
from typing import Any

from gemma_tf_distill.report.content import Content
from gemma_tf_distill.report.markup import Markup, joined, tag
from gemma_tf_distill.report.numbers import MISSING, count, decimal, is_number, percent, rate, ratio, short_count, significant, size, times
from gemma_tf_distill.report.pareto import pareto_front
from gemma_tf_distill.report.plots import Axis, Point, figure, legend, scatter
from gemma_tf_distill.report.runs import PUSHED_FOLDER, RunFigures
from gemma_tf_distill.report.tables import table

_LONGEST_LABEL = 24


def models(content: Content) -> Markup:
    """Teacher, student, and what the student would be without the teacher or without training."""
    run, student = content.this_run, content.report["student"]
    final = f"student, trained in {run.scheme}" if run.scheme else "student"
    rows: list[tuple[Any, ...]] = [
        _row("teacher", run.teacher, content.report["teacher"].get("parameters"), run.teacher_nll, run.teacher_nll),
        _row(final, "as exported", run.parameters, run.nll, run.teacher_nll, run.kl, run.top1_agreement),
    ]
    if run.scheme:
        rows.append(_row("in float", "before quantisation", None, run.float_nll, run.teacher_nll))
        rows.append(_row(f"rounded to {run.scheme}", "not trained for it (PTQ)", None, run.ptq_nll, run.teacher_nll))
    if run.control_nll is not None:
        rows.append(_row("control", "trained without the teacher", None, run.control_nll, run.teacher_nll))
    if content.baseline:
        known = content.baseline
        figures = (known.get(name) for name in ("heldout_nll", "teacher_heldout_nll", "kl_to_teacher", "top1_agreement"))
        rows.append(_row("baseline", "the latest blessed model before this one", None, *figures))
    rows.append(_row("before training", "the student as it began", None, student.get("heldout_nll_initial"), run.teacher_nll))
    tokens = content.report.get("tokens", {})
    note = (
        f"Trained on {count(tokens.get('train'))} tokens; NLL and KL are nats a token on {count(tokens.get('heldout'))} held-out tokens "
        f"over the student’s {count(run.words)} words, the same for every model."
    )
    header = ("", "NLL", "perplexity vs teacher", "KL to teacher", "same first choice", "parameters")
    return joined(table(header, rows, name="Models"), tag("p", note, class_="note"))


def _row(
    name: str, note: str, parameters: Any, nll: float | None, teacher: float | None, kl: float | None = None, top1: float | None = None
) -> tuple[Any, ...]:
    return (
        joined(name, tag("span", note, class_="sub")),
        decimal(nll),
        times(ratio(nll, teacher)),
        decimal(kl),
        percent(top1),
        short_count(parameters),
    )


def tradeoff(content: Content) -> Markup:
    """Quality against bytes and against decoding speed, over all runs of the same output root."""
    points = [(content.this_run, "this", "this run"), *((run, _kind(run), _label(run)) for run in content.other_runs)]
    drawings = [
        _tradeoff("pareto-size", "Quality and size", "bytes", points, content, lambda run: run.file and run.file.bytes, size, False),
        _tradeoff(
            "pareto-speed",
            "Quality and decoding speed",
            "tokens a second",
            points,
            content,
            lambda run: run.file and run.file.decode_tokens_per_second,
            significant,
            True,
        ),
    ]
    drawn = [drawing for drawing in drawings if drawing is not None]
    if not drawn:
        return tag("p", "No figures of size, speed and quality were recorded.", class_="note")
    kinds = {kind for _, kind, _ in points} | ({"bound"} if _rounded(content) else set())
    names = {"this": "this run", "run": "another run, pushed", "rejected": "another run, not pushed", "push": "an earlier push"}
    names["bound"] = "this run, rounded without training"
    words = {run.words for run, _, _ in points if run.words}
    notes = []
    if len(points) == 1:
        notes.append("This is the only finished run in its output root so far: others appear here beside it.")
    if len(words) > 1:
        notes.append(
            f"The runs have different vocabularies ({', '.join(count(number) for number in sorted(words))} words): each is compared with "
            "its own teacher over its own words, and small differences between them mean little."
        )
    return joined(
        legend([(kind, name) for kind, name in names.items() if kind in kinds]),
        tag("div", *drawn, class_="plots"),
        *(tag("p", note, class_="note") for note in notes),
    )


def _kind(run: RunFigures) -> str:
    if run.path.parent.name == PUSHED_FOLDER:
        return "push"
    return "run" if run.blessed else "rejected"


def _label(run: RunFigures) -> str:
    name = f"push {run.version}" if run.path.parent.name == PUSHED_FOLDER else run.path.name
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"


def _rounded(content: Content) -> float | None:
    return ratio(content.this_run.ptq_nll, content.this_run.teacher_nll) if content.this_run.scheme else None


def _tradeoff(
    key: str,
    title: str,
    unit: str,
    runs: list[tuple[RunFigures, str, str]],
    content: Content,
    figure_of: Callable[[RunFigures], Any],
    shown: Callable[[Any], str],
    more_is_better: bool,
) -> Markup | None:
    def point(kind: str, label: str, x: float, y: float) -> Point:
        unit_shown = f"{shown(x)} tokens/s" if more_is_better else shown(x)
        return Point(x=x, y=y, kind=kind, label=label, tip=f"{label}: {y:.3g} × perplexity, {unit_shown}")

    points = []
    for run, kind, label in runs:
        x, y = figure_of(run), run.perplexity_vs_teacher
        if is_number(x) and is_number(y) and x > 0:
            points.append(point(kind, label, float(x), float(y or 0)))
    if not points:
        return None
    # A rounded student is in the same numbers, and so of the same size and speed.
    own, rounded = figure_of(content.this_run), _rounded(content)
    if rounded and is_number(own):
        points.append(point("bound", "rounded", float(own), rounded))
    costs = [(-one.x if more_is_better else one.x, one.y) for one in points]
    best = sorted((points[place] for place in pareto_front(costs)), key=lambda one: one.x)
    direction = "further right is faster" if more_is_better else "further left is smaller"
    description = (
        f"{len(points)} models: perplexity over the teacher’s (lower is better) against {unit} ({direction}). Not beaten in both: "
        f"{', '.join(one.label for one in best)}."
    )
    drawing = scatter(
        key,
        title,
        description,
        points,
        Axis(label=f"{unit}, {'tflite' if _all_tflite(runs) else 'main file'}", format=shown, log_from=8),
        Axis(label="perplexity, times the teacher’s", log_from=4),
        best,
    )
    rows = [(one.label, shown(one.x), times(one.y), "yes" if one in best else "") for one in sorted(points, key=lambda one: one.x)]
    data = table(("model", unit, "perplexity vs teacher", "not beaten in both"), rows, name=f"{title}: numbers")
    caption = joined(title, tag("small", f"Lower is better, {direction}; the dashed line joins what nothing beats in both."))
    return figure(caption, drawing, data)


def _all_tflite(runs: list[tuple[RunFigures, str, str]]) -> bool:
    return all(run.file is None or run.file.format == "tflite" for run, _, _ in runs)


def files(content: Content) -> Markup:
    """Every file beside the student, as parity ran it in its own runtime."""
    measured = {file["format"]: file for file in content.parity}
    repeats = any(is_number(content.repetition.get(file.format)) for file in content.this_run.files)
    rows = []
    for file in content.this_run.files:
        found = measured.get(file.format, {})
        rows.append(
            (
                file.format,
                size(file.bytes),
                percent(found.get("weights_equal_fraction"), 2),
                percent(found.get("top1_agreement"), 2),
                decimal(found.get("nll")),
                decimal(found.get("prefill_tokens_per_second"), 0),
                rate(found.get("decode_tokens_per_second")),
                size(found.get("peak_bytes")),
                *([percent(content.repetition.get(file.format))] if repeats else []),
            )
        )
    if not rows:
        return tag("p", "No exported file was recorded.", class_="note")
    header = (
        "file",
        "size",
        "weights as trained",
        "same first choice as the student",
        "NLL",
        "prefill tokens/s",
        "decode tokens/s",
        "memory",
        *(["4-grams repeated"] if repeats else []),
    )
    tokens = max((file.get("tokens") or 0 for file in content.parity), default=0)
    note = (
        f"Each file was run in its own runtime on {count(tokens)} held-out tokens and compared with the student; speed is that of the "
        "machine that exported."
        if content.parity
        else f"Parity was not recorded ({MISSING})."
    )
    if is_number(of_teacher := content.repetition.get("teacher")):
        note += f" In its own completions of the prompts the teacher repeats {percent(of_teacher)} of its 4-grams."
    return joined(table(header, rows, name="Files"), tag("p", note, class_="note"))
