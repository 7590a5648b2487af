"""Holds what a model reached against what the config asks, gate by gate, in numbers and in words."""

import math
from collections.abc import Callable, Mapping

from components.quality_gate.eval_config import GATED_METRICS, asked_of_slices
from components.quality_gate.files import TEACHER, Exported
from components.quality_gate.metrics import REGRESSION
from components.quality_gate.other_vocabulary import Comparison
from gemma_tf_distill.config import GatesConfig
from gemma_tf_distill.report.gates import HIGH, LOW, OVERALL, REGRESSION_GATE, GateResult, config_key

_OF_FILES = {
    "max_bytes": "bytes",
    "min_decode_tokens_per_second": "decode_tokens_per_second",
    "max_repetition_rate": "repetition_rate",
}
_FILES = "files"


def judge(
    gates: GatesConfig,
    metrics: Mapping[str, Mapping[str, float]],
    exported: Exported,
    *,
    baseline: bool = False,
    comparison: Comparison | None = None,
) -> list[GateResult]:
    """Judges a model.

    Args:
      gates: what is asked.
      metrics: the candidate's by slice, as of `read_metrics`.
      exported: its files.
      baseline: whether there is a blessed model of the same words that `metrics` compare it with.
      comparison: with a blessed model of other words, where that is the baseline.

    Returns:
      A result for every gate; a model may be pushed if all of them hold. What is missing or no number does not hold.
    """
    results = [_of_tokens(metrics.get(OVERALL, {}))]
    for name, limits in asked_of_slices(gates).items():
        results += [_of_metric(gate, name, limit, metrics) for gate, limit in limits.items()]
    if gates.regression is not None:
        results.append(_of_regression(gates.regression, metrics.get(OVERALL, {}), baseline, comparison))
    results.append(_of_parity(exported))
    for gate, figure in _OF_FILES.items():
        formats = tuple(format for format in exported.figures if format != TEACHER)
        for format, limit in gates.of_formats(gate, formats or (_FILES,)).items():
            results.append(_of_file(gate, figure, format, limit, exported))
    return results


def _of_tokens(values: Mapping[str, float]) -> GateResult:
    got = _number(values.get("tokens"))
    held = got is not None and got >= 1
    words = f"judged on {got:,.0f} held-out tokens" if held else ""
    words = words or "there was no held-out token to judge the model on, or its eval signature gave no number"
    return GateResult(gate="tokens", slice=OVERALL, metric="tokens", asked=1.0, got=got, held=held, words=words)


def _of_metric(gate: str, name: str, limit: float, metrics: Mapping[str, Mapping[str, float]]) -> GateResult:
    metric, slice = GATED_METRICS[gate], name or OVERALL
    values = metrics.get(slice, {})
    key = config_key(gate, slice)
    if name and slice not in metrics:
        feature = name.partition("=")[0]
        there = ", ".join(sorted(label for label in metrics if label.startswith(f"{feature}=")))
        words = f"there is no held-out example of {name}, of which {key} asks for {_bound(gate, limit)}; there are {there or 'none at all'}"
        return GateResult(gate=gate, slice=slice, metric=metric, asked=limit, got=None, held=False, words=words)
    got = _number(values.get(metric))
    return GateResult(
        gate=gate,
        slice=slice,
        metric=metric,
        asked=limit,
        got=got,
        low=_number(values.get(metric + LOW)),
        high=_number(values.get(metric + HIGH)),
        held=_holds(gate, got, limit),
        words=_sentence(f"{metric} of {name}" if name else metric, got, key, gate, limit, lambda value: f"{value:.4f}"),
    )


def _of_regression(limit: float, values: Mapping[str, float], baseline: bool, comparison: Comparison | None) -> GateResult:
    gate = REGRESSION_GATE
    metric = "bits_per_byte" if comparison else "heldout_nll"
    if comparison:
        got, low, high = map(_number, (comparison.rise, comparison.low, comparison.high))
    else:
        got, low, high = (_number(values.get(REGRESSION + end)) for end in ("", LOW, HIGH))
    held = _holds(gate, got, limit)
    if not baseline and not comparison:
        held, words = True, f"there is no blessed model yet whose {metric} this model's could be compared with"
    elif got is None:
        words = (
            f"{metric} could not be compared with the blessed baseline's: one of the two gave no number, gates.{gate} allows {limit:+.1%}"
        )
    else:
        words = f"{metric} is {got:+.1%} of the blessed baseline's, gates.{gate} allows {limit:+.1%}"
    if comparison:
        words += f"; {comparison.words}"
    return GateResult(gate=gate, slice=OVERALL, metric=metric, asked=limit, got=got, low=low, high=high, held=held, words=words)


def _of_parity(exported: Exported) -> GateResult:
    if exported.failures is None:
        got, words = None, "the model has no export.json that says what its files do in their own runtimes: export it again"
    else:
        got = float(len(exported.failures))
        words = "; ".join(exported.failures) or "every file is what the student is, in its own runtime"
    return GateResult(gate="parity", slice=_FILES, metric="parity_failures", asked=0.0, got=got, held=got == 0, words=words)


def _of_file(gate: str, figure: str, format: str, limit: float, exported: Exported) -> GateResult:
    got = _number(exported.figures.get(format, {}).get(figure))
    words = _sentence(f"{figure} of {format}", got, config_key(gate, format), gate, limit, _four_digits)
    return GateResult(gate=gate, slice=format, metric=figure, asked=limit, got=got, held=_holds(gate, got, limit), words=words)


def _holds(gate: str, got: float | None, limit: float) -> bool:
    return got is not None and (got <= limit if gate.startswith("max_") else got >= limit)


def _bound(gate: str, limit: float) -> str:
    return f"{'at most' if gate.startswith('max_') else 'at least'} {limit:,.12g}"


def _sentence(what: str, got: float | None, key: str, gate: str, limit: float, shown: Callable[[float], str]) -> str:
    return f"{what} is {'missing or no number' if got is None else shown(got)}, {key} asks for {_bound(gate, limit)}"


def _four_digits(value: float) -> str:
    return f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
