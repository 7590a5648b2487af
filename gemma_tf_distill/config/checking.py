"""How a value is refused."""

from typing import Any

from gemma_tf_distill.errors import ConfigError


def check(condition: bool, key: str, expectation: str, value: Any) -> None:
    """Raises ConfigError unless `condition`: which key, what it must be, and the value it has."""
    if not condition:
        raise ConfigError(f"{key} must be {expectation}, not {value!r}")


def nearest_multiples(number: int, unit: int) -> str:
    """The multiples of `unit` around a positive number that is none, those above 0, as a person reads them: `8 or 16`."""
    below = number // unit * unit
    return " or ".join(str(multiple) for multiple in (below, below + unit) if multiple)
