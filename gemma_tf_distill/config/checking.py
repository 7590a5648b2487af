"""How a section refuses a value."""

from typing import Any

from gemma_tf_distill.errors import ConfigError


def check(condition: bool, key: str, expectation: str, value: Any) -> None:
    """Raises ConfigError unless `condition`: which key, what it must be, and the value it has."""
    if not condition:
        raise ConfigError(f"{key} must be {expectation}, not {value!r}")
