"""The top of the page: pushed or not, and the few figures that matter."""

from gemma_tf_distill.report.content import Content
from gemma_tf_distill.report.markup import Markup, tag
from gemma_tf_distill.report.numbers import MISSING, decimal, is_number, percent, short_count, size, times


def verdict(content: Content) -> Markup:
    """Pushed or not, and why."""
    report = content.report
    if report["blessed"]:
        words = tag("strong", "✓ Blessed and pushed" if report.get("pushed") else "✓ Blessed")
        why = tag("p", f"{_held(content)} {_where(content)}")
        return tag("div", words, tag("p", _summary(content)), why, class_="verdict good", role="status")
    words = tag("strong", "✗ Not blessed, not pushed")
    failed = [gate for gate in content.gates or () if not gate.held]
    count_of = f"It fails {len(failed)} gates:" if len(failed) > 1 else "It fails one gate:"
    why = tag("p", count_of if failed else "Which gates it fails was not recorded.")
    reasons = [tag("p", gate.words) for gate in failed]
    return tag("div", words, tag("p", _summary(content)), why, *reasons, class_="verdict bad", role="status")


def _held(content: Content) -> str:
    if content.gates is None:
        return "It holds its gates; which they were was not recorded."
    return f"It holds all {sum(not gate.skipped for gate in content.gates)} gates that were asked."


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
        ("Gap closed", percent(run.gap_closed), "of the way from control to teacher"),
        ("Bits a byte", decimal(run.bits_per_byte), f"of text, teacher {decimal(run.teacher_bits_per_byte)}"),
        ("Size", size(file.bytes) if file else MISSING, file.format if file else ""),
        (
            "Decoding",
            f"{decimal(speed, 0 if speed >= 100 else 1)}/s" if file and is_number(speed := file.decode_tokens_per_second) else MISSING,
            "tokens, on this machine",
        ),
    ]
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value, tag("small", note) if note else None)) for name, value, note in entries),
        class_="cards",
    )
