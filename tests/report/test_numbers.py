"""Figures as people read them."""

import math

import pytest

from gemma_tf_distill.report import numbers


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.decimal(3.18951), "3.190"),
        (numbers.percent(0.571), "57.1 %"),
        (numbers.count(12613), "12,613"),
        (numbers.size(24_100_000), "24.1 MB"),
        (numbers.size(999_999), "1.00 MB"),
        (numbers.size(97), "97 B"),
        (numbers.size(3.2e12), "3200 GB"),
        (numbers.short_count(268_098_176), "268 M"),
        (numbers.times(1.0216), "1.02"),
        (numbers.times(514_894_180.69), "515 M"),
        (numbers.times(0.008134), "0.0081"),
        (numbers.significant(0.0471234), "0.04712"),
        (numbers.significant(37_980.54), "37,981"),
        (numbers.significant(9_999.4), "9999"),
        (numbers.rate(130.72), "130.7"),
        (numbers.rate(37_980.54), "37,981"),
    ],
)
def test_figures(shown, expected):
    assert shown == expected


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, "three", True])
@pytest.mark.parametrize("form", [numbers.decimal, numbers.percent, numbers.count, numbers.size, numbers.short_count, numbers.times])
def test_what_is_no_number_is_a_dash(form, missing):
    assert form(missing) == "–"


def test_ratio_of_perplexities():
    assert numbers.ratio(3.0, 2.0) == pytest.approx(math.e)
    assert numbers.ratio(None, 2.0) is None
    assert numbers.ratio(3.0, math.nan) is None
    # As bad as a float can't say.
    assert numbers.ratio(1000.0, 2.0) is None
