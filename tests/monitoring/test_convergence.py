"""The slope of a loss and its error, beside numpy's own least squares."""

import math

import numpy as np
import pytest

from gemma_tf_distill.monitoring.convergence import Convergence


def test_slope_and_error_are_those_of_least_squares_over_the_latest_points():
    random = np.random.default_rng(0)
    steps = np.cumsum(random.integers(1, 9, size=40))
    losses = 4 - 0.002 * steps + random.normal(scale=0.05, size=40)
    convergence = Convergence(points=20)
    for step, loss in zip(steps.tolist(), losses.tolist(), strict=True):
        convergence.add(step, loss)
    coefficients, covariance = np.polyfit(steps[-20:], losses[-20:], 1, cov=True)
    found = convergence.slope()
    assert found.slope == pytest.approx(coefficients[0]) and found.error == pytest.approx(math.sqrt(covariance[0, 0]))
    assert abs(found.slope + 0.002) < 3 * found.error


def test_two_points_have_no_error_and_a_loss_that_is_no_number_has_no_slope():
    convergence = Convergence()
    for step in (1, 2):
        convergence.add(step, 3.0)
        assert convergence.slope() is None
    convergence.add(3, 3.0)
    assert convergence.slope() == (0.0, 0.0)
    convergence.add(4, math.nan)
    assert all(math.isnan(value) for value in convergence.slope())
    convergence.clear()
    assert convergence.slope() is None
