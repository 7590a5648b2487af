"""Figures as people read them; what is missing is a dash."""

import math
from typing import Any, TypeGuard

MISSING = "–"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def decimal(value: Any, digits: int = 3) -> str:
    """`3.189`."""
    return f"{value:,.{digits}f}" if is_number(value) else MISSING


def percent(value: Any, digits: int = 1) -> str:
    """`57.1 %` of 0.571."""
    return f"{100 * value:.{digits}f} %" if is_number(value) else MISSING


def count(value: Any) -> str:
    """`12,613`."""
    return f"{value:,.0f}" if is_number(value) else MISSING


def short_count(value: Any) -> str:
    """`41.3 M`: three digits that count."""
    return _scaled(value, ("", " k", " M", " G"))


def size(value: Any) -> str:
    """`24.1 MB`, decimal, of bytes."""
    return _scaled(value, (" B", " kB", " MB", " GB"))


def times(value: Any) -> str:
    """How many times, such as perplexity over another: `1.02`, `0.0081`, and `515 M` where it is past counting."""
    if is_number(value) and 0 < value < 0.1:
        return f"{value:.2g}"
    return short_count(value) if is_number(value) and value >= 1000 else decimal(value, 2)


def significant(value: Any) -> str:
    """Four digits that count, and all that are before the point: `0.04712`, `1.003`, `24.1`, `37,981`."""
    if is_number(value) and abs(value) >= 9999.5:
        return count(value)
    return f"{value:.4g}" if is_number(value) else MISSING


def rate(value: Any) -> str:
    """`130.7` a second, and `1,087`."""
    return decimal(value, 1 if is_number(value) and value < 1000 else 0)


def ratio(first: float | None, second: float | None) -> float | None:
    """The perplexity of the first NLL over that of the second, the exponential of their difference; none where one is missing."""
    if first is None or second is None or not (is_number(first) and is_number(second)):
        return None
    return math.exp(first - second) if first - second < 700 else None


def _scaled(value: Any, units: tuple[str, ...]) -> str:
    if not is_number(value):
        return MISSING
    number, place = float(value), 0
    while abs(number) >= 999.5 and place < len(units) - 1:
        number, place = number / 1000, place + 1
    digits = 0 if place == 0 else max(0, 3 - len(f"{abs(number):.0f}"))
    return f"{number:.{digits}f}{units[place]}"
