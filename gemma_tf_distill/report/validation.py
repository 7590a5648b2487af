"""Documents and prompts beside the training documents, as the DataValidator compared them."""

from collections.abc import Callable, Sequence
from typing import Any

from gemma_tf_distill.report.content import DocumentStatistics, Validation
from gemma_tf_distill.report.distances import Distance
from gemma_tf_distill.report.markup import Markup, breakable, joined, tag
from gemma_tf_distill.report.numbers import count, decimal, percent, significant
from gemma_tf_distill.report.tables import bar, table

_SPLITS = {"train": "training documents", "heldout": "held-out documents", "serving": "serving prompts"}
_MEANS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "tokens": ("tokens each", lambda value: decimal(value, 1)),
    "tokens_per_character": ("tokens a character", decimal),
    "byte_token_fraction": ("of them bytes", lambda value: percent(value, 2)),
    "unknown_token_fraction": ("of them unknown", lambda value: percent(value, 2)),
}


def validation(found: Validation) -> Markup:
    """Statistics of documents and prompts, their distances with the limits, and anomalies."""
    parts: list[Markup] = [tag("h3", "Documents")]
    if found.documents:
        header = ("DataValidator", "how many", "tokens", *(name for name, _ in _MEANS.values()))
        parts.append(table(header, [_statistics(split) for split in found.documents], name="Statistics of the documents"))
        parts.append(tag("p", "Tokens do not count <bos> and <eos>; the last columns are means over documents.", class_="note"))
        parts += [_sources(split) for split in found.documents if split.sources]
    if found.distances:
        parts += [tag("h3", "Distance from the training documents"), _distances(found.distances)]
    if found.anomalies:
        parts += [tag("h3", "Anomalies of the documents"), tag("ul", *(tag("li", anomaly) for anomaly in found.anomalies))]
    else:
        parts.append(tag("p", "DataValidator found no anomalies of the documents.", class_="note"))
    return joined(*parts)


def _statistics(split: DocumentStatistics) -> tuple[str, ...]:
    means = (shown(split.means.get(name)) for name, (_, shown) in _MEANS.items())
    return (_SPLITS.get(split.split, split.split), count(split.documents), count(split.tokens), *means)


def _sources(split: DocumentStatistics) -> Markup:
    most = max(tokens for _, _, tokens in split.sources) or 1
    rows = [(name, count(documents), bar(tokens / most, count(tokens))) for name, documents, tokens in split.sources]
    what, listed = f"Sources of the {_SPLITS.get(split.split, split.split)}", len(split.sources)
    shown = f"the {listed} with the most tokens of {count(split.source_count)}" if listed < split.source_count else count(listed)
    return tag(
        "details",
        tag("summary", f"{what}: {shown}"),
        table(("source", "documents", "tokens"), rows, name=what),
    )


def _distances(distances: Sequence[Distance]) -> Markup:
    rows = [(_name(distance), decimal(distance.value, 4), significant(distance.limit), _state(distance)) for distance in distances]
    note = (
        "Jensen-Shannon divergence is 0 for equal distributions and 1 for such as have nothing in common; the infinity norm is by how much "
        "the share of one source differs. data_validation in the config limits them."
    )
    return joined(table(("feature", "distance", "limit", ""), rows, name="Distances", class_="gates"), tag("p", note, class_="note"))


def _name(distance: Distance) -> Markup:
    kind = "drift" if distance.of == _SPLITS["heldout"] else "skew"
    words = f"{kind}: {distance.of}, {distance.measure}"
    return joined(tag("code", *breakable(distance.feature)), tag("span", words, class_="sub"))


def _state(distance: Distance) -> Markup:
    if distance.limit is None:
        return tag("span", "not asked", class_="skip")
    return tag("span", "✗ over", class_="no") if distance.is_over else tag("span", "✓ within", class_="yes")
