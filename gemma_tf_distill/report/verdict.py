"""The top of the page: pushed or not, the few figures that matter, and every gate."""

import re
from collections.abc import Mapping
from typing import Any

from gemma_tf_distill.report.content import Content
from gemma_tf_distill.report.gates import REGRESSION, Gate
from gemma_tf_distill.report.markup import Markup, joined, tag
from gemma_tf_distill.report.numbers import MISSING, count, decimal, is_number, percent, short_count, significant, size, times
from gemma_tf_distill.report.tables import table

_NAMES = {
    "max_perplexity_vs_teacher": "Perplexity, times the teacher’s",
    "max_heldout_nll": "Held-out NLL, nats a token",
    "max_kl_to_teacher": "KL to the teacher, nats a token",
    "min_top1_agreement": "Same first choice as the teacher",
    "min_top5_agreement": "Teacher’s first choice among five",
    REGRESSION: "Rise over the blessed baseline",
    "max_bytes": "Size of the file",
    "min_decode_tokens_per_second": "Decoding, tokens a second",
    "max_bits_per_byte": "Bits a byte of text",
}


def verdict(content: Content) -> Markup:
    """Pushed or not, and why."""
    report = content.report
    if report["blessed"]:
        words = tag("strong", "✓ Blessed and pushed" if report.get("pushed") else "✓ Blessed")
        held = sum(gate.passed is True for gate in content.gates)
        gates = f"all {held} gates that were asked" if held > 1 else "the gate that was asked"
        why = tag("p", f"It holds {gates}. {_where(content)}")
        return tag("div", words, tag("p", _summary(content)), why, class_="verdict good", role="status")
    failed = [gate for gate in content.gates if gate.passed is False]
    count_of = f"{len(failed)} gates" if len(failed) > 1 else "one gate"
    words = tag("strong", "✗ Not blessed, not pushed")
    reasons = [tag("p", reason) for reason in content.failures]
    return tag("div", words, tag("p", _summary(content)), tag("p", f"It fails {count_of}:"), *reasons, class_="verdict bad", role="status")


def _where(content: Content) -> str:
    return f"Pushed as version {content.this_run.version}." if content.this_run.version else ""


def _summary(content: Content) -> str:
    run = content.this_run
    kind = f"in {run.scheme}" if run.scheme else "in float"
    quality = f"{times(run.perplexity_vs_teacher)} times the perplexity of its teacher"
    bytes_ = f", {size(run.file.bytes)} as {run.file.format}" if run.file else ""
    return f"A student of {short_count(run.parameters)} parameters {kind}: {quality}{bytes_}."


def cards(content: Content) -> Markup:
    """The figures that matter."""
    run = content.this_run
    file = run.file
    entries: list[tuple[str, str, str]] = [
        ("Perplexity", f"{times(run.perplexity_vs_teacher)} ×" if run.perplexity_vs_teacher else MISSING, "the teacher’s"),
        ("Held-out NLL", decimal(run.nll), f"teacher {decimal(run.teacher_nll)} nats a token"),
        ("Agreement", percent(run.top1_agreement), "same first choice as the teacher"),
        ("KL to teacher", decimal(run.kl), "nats a token"),
        ("Size", size(file.bytes) if file else MISSING, file.format if file else ""),
        (
            "Decoding",
            f"{decimal(speed, 0 if speed >= 100 else 1)}/s" if file and is_number(speed := file.decode_tokens_per_second) else MISSING,
            "tokens, on this machine",
        ),
        ("Parameters", short_count(run.parameters), f"teacher {short_count(content.report['teacher'].get('parameters'))}"),
    ]
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value, tag("small", note) if note else None)) for name, value, note in entries),
        class_="cards",
    )


def gates(content: Content) -> Markup | None:
    """Every gate: asked, got, and whether it holds."""
    if not content.gates:
        return None
    rows = [(_name(gate), _asked(gate), _got(gate), _state(gate)) for gate in content.gates]
    note = "A model is pushed only if it holds every gate; a figure that is missing fails."
    return joined(
        tag("h3", "Gates"),
        table(("Gate", "Asked", "Got", ""), rows, name="Gates", class_="gates"),
        tag("p", note, class_="note"),
    )


def _name(gate: Gate) -> Markup:
    if not gate.name:
        return tag("span", gate.reason)
    return joined(
        _NAMES.get(gate.name, gate.name[4:].replace("_", " ").capitalize()), tag("code", *_breakable(f"gates.{gate.name}"), class_="sub")
    )


def _breakable(key: str) -> list[Any]:
    """A key that may be broken after its underscores."""
    parts: list[Any] = []
    for part in re.split("(?<=_)", key):
        parts += [part, tag("wbr")]
    return parts[:-1]


def _asked(gate: Gate) -> str:
    if not gate.name:
        return MISSING
    bound = "≥ " if gate.name.startswith("min_") else "≤ "
    if isinstance(gate.asked, Mapping):
        return ", ".join(f"{key} {bound}{_value(gate.name, value)}" for key, value in gate.asked.items())
    return f"{bound}{_value(gate.name, gate.asked)}"


def _got(gate: Gate) -> str:
    return _value(gate.name, gate.got)


def _value(name: str, value: Any) -> str:
    if not is_number(value):
        return MISSING if value is None else str(value)
    if name == REGRESSION:
        return f"{value:+.1%}".replace("%", " %")
    if "agreement" in name:
        return percent(value)
    if name.endswith("bytes"):
        return size(value)
    return count(value) if abs(value) >= 1000 else significant(value)


def _state(gate: Gate) -> Markup:
    if gate.passed is None:
        return tag("span", "not asked: no baseline" if gate.name == REGRESSION else "not recorded", class_="skip")
    return tag("span", "✓ holds", class_="yes") if gate.passed else tag("span", "✗ fails", class_="no")
