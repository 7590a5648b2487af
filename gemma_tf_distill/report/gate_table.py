"""Every gate as the Evaluator judged it: of what, asked, got, and whether it holds."""

from typing import Any

from gemma_tf_distill.report.content import Content
from gemma_tf_distill.report.gates import OVERALL, REGRESSION_GATE, GateResult
from gemma_tf_distill.report.markup import Markup, breakable, joined, tag
from gemma_tf_distill.report.metrics import metric_text, with_interval
from gemma_tf_distill.report.tables import table

_NAMES = {
    "tokens": "Held-out tokens to judge it on",
    "max_perplexity_vs_teacher": "Perplexity, times the teacher’s",
    "max_heldout_nll": "Held-out NLL, nats a token",
    "max_bits_per_byte": "Bits a byte of text",
    "max_kl_to_teacher": "KL to the teacher, nats a token",
    "max_ece": "Calibration error",
    "min_top1_agreement": "Same first choice as the teacher",
    "min_top5_agreement": "Teacher’s first choice among five",
    REGRESSION_GATE: "Rise over the blessed baseline",
    "parity": "Ways in which files are not the student",
    "max_bytes": "Size of the file",
    "min_decode_tokens_per_second": "Decoding, tokens a second",
    "max_repetition_rate": "4-grams repeated in completions",
}

_WITH_UNITS = ("tokens", "top1_agreement", "top5_agreement", "parity_failures", "bytes", "repetition_rate")

# All of the held-out split; all files.
_OF_ALL = (OVERALL, "files")


def gates(content: Content) -> Markup:
    """A row for every gate."""
    if content.gates is None:
        return joined(tag("h3", "Gates"), tag("p", "What was asked of the model and what it reached was not recorded.", class_="note"))
    rows = [(_name(gate), _asked(gate), _got(gate), _state(gate)) for gate in content.gates]
    note = (
        "A model is pushed only if it holds every gate; a figure that is missing fails. One that names no slice or format is asked of all."
    )
    if any(gate.low is not None for gate in content.gates):
        note += " Below a figure: its 95 % confidence interval; a gate asks for the figure itself."
    return joined(
        tag("h3", "Gates"),
        table(("Gate", "Asked", "Got", ""), rows, name="Gates", class_="gates"),
        tag("p", note, class_="note"),
    )


def _name(gate: GateResult) -> Markup:
    key = tag("code", *breakable(gate.key), class_="sub") if gate.key else None
    # What a figure does not say: why there is none, or what was compared with what.
    telling = gate.got is None or gate.gate == REGRESSION_GATE or (gate.gate == "parity" and not gate.held)
    words = tag("span", gate.words, class_="sub") if telling else None
    name = _NAMES.get(gate.gate, gate.gate.replace("_", " ").capitalize())
    where = "" if gate.slice in _OF_ALL else f", {gate.slice}"
    return joined(name, where, key, words)


def _asked(gate: GateResult) -> str:
    bound = "≤" if gate.gate.startswith("max_") or gate.gate == "parity" else "≥"
    return f"{bound} {_text(gate, gate.asked)}"


def _got(gate: GateResult) -> Markup:
    return with_interval(lambda value: _text(gate, value), gate.got, gate.low, gate.high)


def _text(gate: GateResult, value: Any) -> str:
    if gate.gate == REGRESSION_GATE and value is not None:
        return f"{value:+.1%}".replace("%", " %")
    # Limits such as 1.0345 are told from what is close to them: four digits, where a table of figures has three places.
    return metric_text(gate.metric if gate.metric in _WITH_UNITS else "", value)


def _state(gate: GateResult) -> Markup:
    if gate.skipped:
        return tag("span", "not asked", class_="skip")
    return tag("span", "✓ holds", class_="yes") if gate.held else tag("span", "✗ fails", class_="no")
