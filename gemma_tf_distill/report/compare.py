"""Runs and pushed versions beside each other, and beside what each of them has to be better than."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from gemma_tf_distill.report.numbers import MISSING, count, decimal, is_number, percent, ratio, size, times
from gemma_tf_distill.report.runs import PUSHED_FOLDER, RunFigures, previous_push


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A model. What is not known is none.

    Attributes:
      model: what it is, of which run.
      kind: `teacher`, `control`, `previous push`, `ptq` or `given`.
      nll: nats a token on the held-out split of its run.
      perplexity_vs_teacher: its perplexity over its teacher's.
      top1_agreement: with its teacher, 0 to 1.
      gap_closed: share of the way from its control's NLL to its teacher's.
      bits_per_byte: of the held-out text.
      words: of the vocabulary that NLL is counted over.
      file: format of the file that the next two are of.
      bytes: its size.
      decode_tokens_per_second: on the machine that exported it.
      blessed: whether it held its gates.
    """

    model: str
    kind: str
    nll: float | None = None
    perplexity_vs_teacher: float | None = None
    top1_agreement: float | None = None
    gap_closed: float | None = None
    bits_per_byte: float | None = None
    words: int | None = None
    file: str | None = None
    bytes: int | None = None
    decode_tokens_per_second: float | None = None
    blessed: bool | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Models beside each other.

    Attributes:
      rows: of every given run what it has to be better than, then itself.
      notes: what to know before comparing them, a sentence each.
    """

    rows: Sequence[Row]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """`models` (the rows) and `notes`, as JSON takes them: a figure that is no finite number is none."""
        models = [
            {key: None if isinstance(value, float) and not is_number(value) else value for key, value in dataclasses.asdict(row).items()}
            for row in self.rows
        ]
        return {"models": models, "notes": list(self.notes)}

    def render(self) -> str:
        """A table for a person, and the notes below it; bits a byte and the gap only where one was measured."""
        bits = any(row.bits_per_byte is not None for row in self.rows)
        gap = any(row.gap_closed is not None for row in self.rows)
        optional = [*(["bits/byte"] if bits else []), "top-1", *(["gap closed"] if gap else [])]
        header = ["", "NLL", "perplexity/teacher", *optional, "file", "size", "decode/s", "blessed"]
        lines = [header]
        for row in self.rows:
            lines.append(
                [
                    row.model,
                    decimal(row.nll),
                    times(row.perplexity_vs_teacher),
                    *([decimal(row.bits_per_byte)] if bits else []),
                    percent(row.top1_agreement),
                    *([percent(row.gap_closed)] if gap else []),
                    row.file or MISSING,
                    size(row.bytes),
                    decimal(row.decode_tokens_per_second, 1),
                    {True: "yes", False: "no", None: MISSING}[row.blessed],
                ]
            )
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        table = [
            "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]).rstrip()
            for line in lines
        ]
        return "\n".join([*table, *(["", *self.notes] if self.notes else [])])


def compare(runs: Sequence[RunFigures]) -> Comparison:
    """Each run with its teacher, control, rounded student and the push before it; what several share is there once."""
    rows: dict[tuple[Any, ...], Row] = {}
    names = _names(runs)
    for run, name in zip(runs, names, strict=True):
        teacher = Row(
            model=f"teacher {run.teacher}",
            kind="teacher",
            nll=run.teacher_nll,
            perplexity_vs_teacher=ratio(run.teacher_nll, run.teacher_nll),
            bits_per_byte=run.teacher_bits_per_byte,
            words=run.words,
        )
        rows.setdefault(("teacher", run.teacher, run.teacher_nll, run.words), teacher)
        bounds = [("control", "control (no teacher)", run.control_nll), ("ptq", f"rounded to {run.scheme} (PTQ)", run.ptq_nll)]
        for kind, label, nll in bounds:
            if nll is not None:
                row = Row(
                    model=f"{name}: {label}",
                    kind=kind,
                    nll=nll,
                    perplexity_vs_teacher=ratio(nll, run.teacher_nll),
                    bits_per_byte=_bits(nll, run),
                    words=run.words,
                )
                rows.setdefault((kind, nll, run.words), row)
        before = previous_push(run)
        given = {other.path.absolute() for other in runs}
        if before is not None and before.path.absolute() not in given:
            rows.setdefault(("push", before.path.absolute()), _row(before, f"{name}: previous push {before.version}", "previous push"))
        rows.setdefault(("given", run.path.absolute()), _row(run, name, "given"))
    return Comparison(list(rows.values()), _notes(list(rows.values()), runs))


def _bits(nll: float, run: RunFigures) -> float | None:
    """Bits a byte of a model with that NLL on the tokens of a run: those are of the same text, so that the two are proportional."""
    return nll * run.bits_per_byte / run.nll if is_number(run.bits_per_byte) and is_number(run.nll) and run.nll else None


def _row(run: RunFigures, model: str, kind: str) -> Row:
    file = run.file
    return Row(
        model=model,
        kind=kind,
        nll=run.nll,
        perplexity_vs_teacher=run.perplexity_vs_teacher,
        top1_agreement=run.top1_agreement,
        gap_closed=run.gap_closed,
        bits_per_byte=run.bits_per_byte,
        words=run.words,
        file=file.format if file else None,
        bytes=file.bytes if file else None,
        decode_tokens_per_second=file.decode_tokens_per_second if file else None,
        blessed=run.blessed,
    )


def _names(runs: Sequence[RunFigures]) -> list[str]:
    """The folder's name; a version's with that of its run, and with more parents where two would be called the same."""
    paths = [run.path.absolute() for run in runs]

    def name(path: pathlib.Path, depth: int) -> str:
        return "/".join(path.parts[-depth:])

    names = []
    for path in paths:
        depth = 3 if path.parent.name == PUSHED_FOLDER else 1
        while depth < len(path.parts) and any(name(other, depth) == name(path, depth) for other in paths if other != path):
            depth += 1
        names.append(name(path, depth))
    return names


def _notes(rows: Sequence[Row], runs: Sequence[RunFigures]) -> list[str]:
    words = sorted({row.words for row in rows if row.words is not None})
    tokens = sorted({run.heldout_tokens for run in runs if run.heldout_tokens is not None})
    notes = []
    if len(words) > 1:
        sizes = " and ".join(count(number) for number in words)
        compared = all(run.bits_per_byte is not None for run in runs)
        notes.append(
            f"The vocabularies differ ({sizes} words), so that NLL a token does not compare: "
            + ("compare bits a byte." if compared else "bits a byte would, but were not measured for all of them.")
        )
    elif len(tokens) > 1:
        notes.append(f"The held-out splits differ ({' and '.join(count(number) for number in tokens)} tokens): NLL compares only roughly.")
    return notes
