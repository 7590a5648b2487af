"""The gates of a config in words: what each asks for, what the model reached, whether it holds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gemma_tf_distill.report.numbers import is_number

REGRESSION = "max_regression_vs_baseline"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate.

    Attributes:
      name: the config's key, such as `max_kl_to_teacher`; `slice: key` where it is asked of a slice.
      asked: its limit as the config has it.
      got: what the model reached; none where nothing recorded says so.
      passed: none where it was not asked, as a regression without a baseline.
      reason: why it failed, as the run told it; empty where it holds.
    """

    name: str
    asked: Any
    got: float | None = None
    passed: bool | None = None
    reason: str = ""


def list_gates(
    gates: Mapping[str, Any],
    measured: Mapping[str, Any],
    failures: Sequence[str],
    *,
    blessed: bool,
    baseline: Mapping[str, Any] | None = None,
) -> list[Gate]:
    """What the gates asked and what came of it.

    Args:
      gates: the config's section. Keys that begin with `max_` or `min_` are gates, on the figure that the rest of the key names.
      measured: figure to value, of all of the held-out split.
      failures: the sentences of the failed gates; a gate is named `gates.<key>` in its own. Whatever names none is a row of its own.
      blessed: whether the model holds all gates.
      baseline: the figures of the model that it was compared with; none where there was none.
    """
    rows, told = [], set()
    for key, asked in gates.items():
        if asked is None or not key.startswith(("max_", "min_")):
            continue
        reasons = [sentence for sentence in failures if _names(sentence, key)]
        told.update(reasons)
        got = _regression(measured, baseline) if key == REGRESSION else measured.get(key[4:])
        value = float(got) if is_number(got) else None
        passed: bool | None = not reasons
        if not reasons and (key == REGRESSION and baseline is None):
            passed = None
        elif not reasons and not blessed and value is None:
            # Not among the failures, but nothing shows that it held.
            passed = None
        rows.append(Gate(name=key, asked=asked, got=value, passed=passed, reason="; ".join(reasons)))
    rows += [Gate(name="", asked=None, passed=False, reason=sentence) for sentence in failures if sentence not in told]
    return rows


def _names(sentence: str, key: str) -> bool:
    _, found, rest = sentence.partition(f"gates.{key}")
    return bool(found) and not rest[:1].isalnum() and not rest.startswith("_")


def _regression(measured: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> float | None:
    now, before = measured.get("heldout_nll"), (baseline or {}).get("heldout_nll")
    return now / before - 1 if is_number(now) and is_number(before) and before else None
