"""Where the model comes from: its text, the time and memory it took, what was made of what, and how to make it again."""

import hashlib
import re

from gemma_tf_distill.report.content import Artifact, Content, SplitStatistics
from gemma_tf_distill.report.markup import Markup, joined, tag
from gemma_tf_distill.report.numbers import MISSING, count, decimal, percent, size
from gemma_tf_distill.report.tables import bar, definitions, table
from gemma_tf_distill.report.validation import validation

_DIGEST = 12
_HEXADECIMAL = re.compile(f"[0-9a-f]{{{_DIGEST}}}")
# What is not 0.0 with one digit.
_SHOWN_SECONDS = 0.05


def data(content: Content) -> Markup:
    """Documents, windows and tokens of the corpus, and what TFDV says of them."""
    figures, parts = content.data.figures, []
    if figures:
        rows = []
        for split in ("train", "heldout"):
            windows, tokens = figures.get(f"{split}_windows"), figures.get(f"{split}_tokens")
            filled = tokens / (windows * window) if windows and tokens and (window := content.config["corpus"]["window"]) else None
            row = (count(figures.get(split)), count(figures.get(f"{split}_kept")), count(windows), count(tokens), percent(filled))
            rows.append((split, *row))
        parts.append(
            table(("split", "documents", "within the cap", "windows", "tokens", "of the windows filled"), rows, name="Corpus by split")
        )
        note = (
            f"{count(figures.get('read'))} documents were read; {count(figures.get('short', 0))} were too short, "
            f"{count(figures.get('duplicate', 0))} were duplicates. The student knows {count(figures.get('words'))} words."
        )
        parts.append(tag("p", note, class_="note"))
    if content.data.validation:
        parts.append(validation(content.data.validation))
    if content.data.splits:
        header = ("TFDV, split", "windows", "shortest", "mean", "median", "longest", "sources")
        parts.append(tag("h3", "Windows"))
        parts.append(table(header, [_statistics(split) for split in content.data.splits], name="Statistics of the windows"))
        parts += [_sources(split) for split in content.data.splits if split.sources]
    if content.data.anomalies:
        parts += [tag("h3", "Anomalies of the windows"), tag("ul", *(tag("li", anomaly) for anomaly in content.data.anomalies))]
    elif content.data.splits:
        parts.append(tag("p", "ExampleValidator found no anomalies of the windows.", class_="note"))
    return joined(*parts) if parts else tag("p", "No statistics of the corpus were recorded.", class_="note")


def _statistics(split: SplitStatistics) -> tuple[str, ...]:
    lengths = (decimal(split.length.get(name), 0) for name in ("min", "mean", "median", "max"))
    return (split.split, count(split.examples), *lengths, count(split.source_count) if split.source_count else MISSING)


def _sources(split: SplitStatistics) -> Markup:
    top = max(number for _, number in split.sources) or 1
    rows = [(name, bar(number / top, count(number))) for name, number in split.sources]
    return tag(
        "details",
        tag("summary", f"Most frequent sources of {split.split}"),
        table(("source", "windows"), rows, name=f"Sources of {split.split}"),
    )


def nodes(content: Content) -> Markup:
    """How long each node took, and how much memory there was in use at the most."""
    if not content.nodes:
        return tag("p", "No nodes were recorded.", class_="note")
    longest = max(node.seconds for node in content.nodes) or 1
    memory = any(node.peak_bytes for node in content.nodes)
    most = max(node.peak_bytes or 0 for node in content.nodes) or 1
    rows = []
    for node in content.nodes:
        seconds = f"{decimal(node.seconds, 1)} s" if node.seconds >= _SHOWN_SECONDS else "under 0.1 s"
        row: list[object] = [node.name, "from cache" if node.cached else bar(node.seconds / longest, seconds)]
        if memory:
            row.append(bar(node.peak_bytes / most, size(node.peak_bytes)) if node.peak_bytes else MISSING)
        rows.append(row)
    total = sum(node.seconds for node in content.nodes)
    note = f"{decimal(total / 60, 1)} minutes in all." + (
        " Memory is that of all processes of the run together, sampled while the node ran." if memory else " Memory was not measured."
    )
    header = ("node", "time", "memory at the most") if memory else ("node", "time")
    return joined(table(header, rows, name="Time and memory"), tag("p", note, class_="note"))


def lineage(content: Content) -> Markup:
    """Which corpus, teacher, code and config made the files, by ML Metadata."""
    source = content.config["corpus"]["source"]
    found: dict[str, str] = {}
    for artifact in content.artifacts:
        for name, digest in artifact.fingerprints.items():
            if name != "source_digest":
                found.setdefault(name, digest)
    pairs: list[tuple[str, object]] = [
        ("Corpus", joined(source if isinstance(source, str) else ", ".join(source), _digest(found.get("corpus_fingerprint")))),
        ("Teacher", joined(content.config["teacher"]["source"], _digest(found.get("teacher_fingerprint")))),
        ("Config", joined(content.config["name"], _digest(content.config_digest))),
    ]
    if content.packages:
        pairs.append(("Packages", ", ".join(f"{name} {version}" for name, version in content.packages.items())))
    parts: list[Markup] = [definitions(pairs)]
    if content.artifacts:
        known = {artifact.id for artifact in content.artifacts}
        rows = [_row(artifact, known) for artifact in content.artifacts]
        parts.append(tag("h3", "Artifacts"))
        parts.append(
            table(("id", "made by", "what", "of", "where", "code"), rows, name="Artifacts of ML Metadata", texts=6, class_="lineage")
        )
        parts.append(tag("p", "Places are relative to the run’s folder; fingerprints are shown by their first digits.", class_="note"))
    return joined(*parts)


def _digest(value: str | None) -> Markup | None:
    """The first digits of a digest; a fingerprint that is none, such as a list of files, is made one."""
    if not value:
        return None
    digits = value if _HEXADECIMAL.match(value) else hashlib.sha256(value.encode()).hexdigest()
    return joined(" ", tag("code", digits[:_DIGEST], title=value))


def _row(artifact: Artifact, known: set[int]) -> tuple[object, ...]:
    inputs: list[object] = []
    for number in artifact.inputs:
        inputs += [", "] if inputs else []
        inputs.append(tag("a", f"#{number}", href=f"#artifact-{number}") if number in known else f"#{number}")
    digest = artifact.fingerprints.get("source_digest")
    return (
        tag("span", f"#{artifact.id}", id=f"artifact-{artifact.id}"),
        artifact.node,
        joined(artifact.output, tag("span", artifact.kind, class_="sub")) if artifact.kind.lower() != artifact.output else artifact.output,
        joined(*inputs) if inputs else MISSING,
        tag("code", artifact.uri),
        _digest(digest) or MISSING,
    )


def reproduce(content: Content) -> Markup:
    """The command that makes the same again."""
    note = tag("p", content.command_note, class_="note") if content.command_note else None
    return joined(tag("div", tag("pre", tag("code", content.command)), class_="command"), note)
