"""How the Evaluator calls what it says of a model, for who writes it and who shows it: slices, intervals, gates."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

OVERALL = "overall"
"""The slice that is all of the held-out split."""

LOW, HIGH = "_low", "_high"
"""Endings of the names of the ends of a figure's 95 % confidence interval."""

REGRESSION_GATE = "max_regression_vs_baseline"

# Asked of every model, whatever the config says.
_WITHOUT_KEY = ("tokens", "parity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateResult:
    """A gate: what was asked of a model, and what it reached.

    Attributes:
      gate: the config's key, such as `max_heldout_nll`; also `tokens`, whether there was anything to judge on, and `parity`, whether
        every file is what the student is.
      slice: `overall`, a slice such as `source=docs`, or for a gate on files the format, such as `tflite`.
      metric: what it looks at.
      asked: the limit.
      got: what the model reached; none where that is missing or no number. Of `max_regression_vs_baseline` the rise over the baseline's,
        as a fraction of it.
      low: the lower end of the 95 % confidence interval of `got`, where there is one.
      high: the upper end.
      held: whether the model may be pushed, so far as this gate is asked.
      words: all of that as a sentence.
    """

    gate: str
    slice: str
    metric: str
    asked: float
    got: float | None
    low: float | None = None
    high: float | None = None
    held: bool
    words: str

    @property
    def key(self) -> str:
        """Where the config asks it, such as `gates.max_bytes`; empty where it is asked of every model."""
        return config_key(self.gate, self.slice)

    @property
    def skipped(self) -> bool:
        """Whether there was nothing to ask it of: a regression, before any model was blessed."""
        return self.gate == REGRESSION_GATE and self.held and self.got is None


def config_key(gate: str, slice: str) -> str:
    """The config's key of a gate on a slice or format; empty for those that the config does not name."""
    if gate in _WITHOUT_KEY:
        return ""
    return f"gates.per_slice.{slice}.{gate}" if "=" in slice else f"gates.{gate}"


def gate_results(records: Iterable[Mapping[str, Any]]) -> list[GateResult]:
    """Gates of their JSON objects, in `gates.json` or under `gates` in `report.json`."""
    names = [field.name for field in dataclasses.fields(GateResult)]
    return [GateResult(**{name: record[name] for name in names if name in record}) for record in records]
