"""Confidence intervals of ratios of sums: the examples are drawn again, and the ratio of each draw's sums is taken."""

from collections.abc import Iterator

import numpy as np

RESAMPLES = 1_000
LEVEL = 0.95
_SEED = 0
# Counts of draws that exist at a time: 80 MB.
_COUNTS_AT_A_TIME = 10_000_000


def resampled_sums(rows: np.ndarray, resamples: int = RESAMPLES) -> np.ndarray:
    """Sums over as many rows as there are, drawn with replacement (Efron 1979, "Bootstrap Methods: Another Look at the Jackknife").

    Args:
      rows: float [n, k], what each of n examples adds to k sums.
      resamples: how many times to draw.

    Returns:
      float64 [resamples, k], the same for the same rows in the same order.
    """
    return np.concatenate([counts @ rows.astype(np.float64) for counts in _draws(len(rows), resamples)])


def _draws(examples: int, resamples: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(_SEED)
    at_a_time = max(1, _COUNTS_AT_A_TIME // examples)
    for start in range(0, resamples, at_a_time):
        shares = np.full(examples, 1 / examples)
        yield random.multinomial(examples, shares, size=min(at_a_time, resamples - start)).astype(np.float64)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The percentile interval of `LEVEL` of resampled values float64 [resamples]; NaN where none of them is a number."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.nan, np.nan
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
