"""Times of variants that take turns, so that a machine's slow minutes fall on all of them."""

import statistics
import time
from collections.abc import Callable

import tensorflow as tf


def median_seconds(functions: dict[str, Callable[[], tf.Tensor]], rounds: int) -> dict[str, float]:
    """Medians, each function once a round; the first round compiles and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            begun = time.perf_counter()
            function().numpy()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}
