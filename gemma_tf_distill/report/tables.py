"""Tables of a page."""

from collections.abc import Sequence
from typing import Any

from gemma_tf_distill.report.markup import Markup, tag


def table(header: Sequence[Any], rows: Sequence[Sequence[Any]], *, name: str, texts: int = 1, class_: str = "") -> Markup:
    """A table that scrolls by itself where the page is narrower; its rows begin with a header cell.

    Args:
      header: a name for each column.
      rows: cells, as many as there are names.
      name: what it shows, for who hears it.
      texts: how many columns, from the left, are text; the others are figures and stand to the right.
      class_: more classes of the table.
    """

    def cells(row: Sequence[Any], first: str, others: str, scope: str | None) -> list[Markup]:
        made = []
        for column, value in enumerate(row):
            kind = first if column == 0 else others
            made.append(tag(kind, value, scope=scope if kind == "th" else None, class_=None if column < texts else "n"))
        return made

    head = tag("thead", tag("tr", *cells(header, "th", "th", "col")))
    body = tag("tbody", *(tag("tr", *cells(row, "th", "td", "row")) for row in rows))
    return tag("div", tag("table", head, body, class_=class_ or None), class_="scroll", tabindex=0, role="region", aria_label=name)


def definitions(pairs: Sequence[tuple[str, Any]]) -> Markup:
    """Names and values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))


def bar(share: float, label: str) -> Markup:
    """A figure with a bar behind it, `share` (0 to 1) long."""
    width = f"{100 * min(1.0, max(0.0, share)):.1f}"
    drawing = tag(
        "svg",
        tag("rect", x=0, y=0, width=100, height=6, class_="track"),
        tag("rect", x=0, y=0, width=width, height=6, class_="fill"),
        viewBox="0 0 100 6",
        preserveAspectRatio="none",
        aria_hidden="true",
        class_="bar",
    )
    return tag("span", drawing, tag("span", label), class_="barred")
