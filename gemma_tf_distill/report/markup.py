"""HTML and SVG as text that is well-formed XML, in which whatever comes from data is escaped."""

import html
import re
from typing import Any

# What XML 1.0 can't hold, escaped or not; models write such characters.
_CONTROL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Markup(str):
    """Text that is HTML already and is not escaped again. Only `tag`, `joined` and constants make it."""


def text(value: Any) -> Markup:
    """Any value as text of a page; characters that XML can't hold become U+FFFD."""
    return value if isinstance(value, Markup) else Markup(html.escape(_CONTROL.sub("\ufffd", str(value)), quote=True))


def joined(*children: Any) -> Markup:
    """One after another, escaped where they are no markup; those that are none are left out."""
    return Markup("".join(text(child) for child in children if child is not None))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element.

    Args:
      name: of the element.
      *children: see `joined`.
      **attributes: `class_` becomes `class` and `aria_label` `aria-label`; one that is none or false is left out, true is its own name.
    """
    shown = []
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is not None and value is not False:
            shown.append(f' {attribute}="{text(attribute if value is True else value)}"')
    content = joined(*children)
    opening = f"<{name}{''.join(shown)}"
    return Markup(f"{opening}>{content}</{name}>" if content or name not in _VOID else f"{opening}/>")


def breakable(key: str) -> list[Any]:
    """The parts of a key that may be broken after its underscores, points and equals signs."""
    parts: list[Any] = []
    for part in re.split("(?<=[_.=])", key):
        parts += [part, tag("wbr")]
    return parts[:-1]


_VOID = {"wbr", "meta", "link", "br", "circle", "rect", "line", "path", "polygon", "polyline", "col"}
