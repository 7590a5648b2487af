"""What a run came to, as text for a person."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def render_outcome(report: Mapping[str, Any], failures: Sequence[str], samples: Sequence[Mapping[str, str]]) -> str:
    """A table of the models, the files, the verdict, and completions of the same prompts by teacher and student.

    Args:
      report: the content of report.json.
      failures: why the model is not blessed, a sentence a gate.
      samples: `prompt`, `teacher` and `student` each.
    """
    return "\n\n".join(part for part in (_models(report), _files(report), _verdict(report, failures), _samples(samples)) if part)


def render_stop(stopped: Mapping[str, Any], command: Sequence[str]) -> str:
    """Where a run stopped, what there is, and how to go on.

    Args:
      stopped: the content of a `stopped` event.
      command: the beginning of the command that trains on the examples.
    """
    folders = stopped["folders"]
    options = [part for name in ("examples", "tokenizer") for part in (f"--{name}", folders[name])]
    return "\n".join(
        [
            f"stopped after {stopped['until']}",
            _table(list(folders.items())),
            "",
            "to train on them, here or on a machine that they were copied to:",
            f"  {shlex.join([*command, *options])} --output DIR",
        ]
    )


def _models(report: Mapping[str, Any]) -> str:
    teacher, student = report["teacher"], report["student"]
    rows = [
        ("", "parameters", "held-out NLL", "KL to teacher", "top-1 agreement"),
        (f"teacher {teacher['source']}", _count(teacher["parameters"]), _number(teacher["heldout_nll"]), "", ""),
        (
            "student",
            _count(student["parameters"]),
            _number(student["heldout_nll"]),
            _number(student["kl_to_teacher"]),
            _percent(student["top1_agreement"]),
        ),
        ("  before training", "", _number(student["heldout_nll_initial"]), "", ""),
        ("  trained without the teacher (control)", "", _number(student["heldout_nll_control"]), "", ""),
    ]
    if "quantization" in student:
        scheme = student["quantization"]["scheme"]
        rows += [
            ("  in float, before quantisation", "", _number(student["heldout_nll_float"]), "", ""),
            (f"  rounded to {scheme} without training", "", _number(student["heldout_nll_ptq"]), "", ""),
            (f"  trained in {scheme}, as it will run", "", _number(student["heldout_nll_quantized"]), "", ""),
        ]
    tokens = report["tokens"]
    note = (
        f"The student has {student['layers']} layers and {student['vocabulary']:,} words. It was trained on {tokens['train']:,} tokens; "
        f"NLL and KL are nats a token on {tokens['heldout']:,} held-out tokens, the same for every model."
    )
    return f"{_table(rows)}\n\n{note}"


def _files(report: Mapping[str, Any]) -> str:
    sizes: dict[str, int] = {}
    for file in report["artifacts"]:
        sizes[file["format"]] = sizes.get(file["format"], 0) + file["bytes"]
    return _table([("files", "bytes"), *((name, f"{size:,}") for name, size in sizes.items())])


def _verdict(report: Mapping[str, Any], failures: Sequence[str]) -> str:
    if report["blessed"]:
        return f"blessed, pushed to {report['pushed']}"
    return "\n".join(["not blessed, and so not pushed:", *(f"  {failure}" for failure in failures)])


def _samples(samples: Sequence[Mapping[str, str]]) -> str:
    blocks = []
    for sample in samples:
        lines = [f"prompt   {_quoted(sample['prompt'])}"]
        lines.extend(f"{who:9}{_quoted(sample[who])}" for who in ("teacher", "student"))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _quoted(text: str) -> str:
    lines = text.rstrip().splitlines() or [""]
    return ("\n" + " " * 9).join(lines)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )


def _count(value: int) -> str:
    return f"{value:,}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
