"""Sizes of the large models, beside those of the Gemma 3 report."""

import pytest

from gemma_tf_distill.quantization.sizes import REPORTED, report_comparison, size_table


def test_the_1b_is_the_reports():
    sizes = size_table()["1b"]
    assert sizes["bf16"] == pytest.approx(2.0, abs=0.01)
    assert sizes["int4"] == pytest.approx(0.5, abs=0.01)
    assert sizes["fp8"] == pytest.approx(1.0, abs=0.01)


def test_every_figure_is_within_5_percent_or_between_two_counts():
    off = {
        (model, name): comparison.difference
        for model, row in report_comparison().items()
        for name, comparison in row.items()
        if abs(comparison.difference) > 0.05
    }
    assert set(off) == {("4b", "int4")}
    vision = 417e6 * 2 / 1e9
    for model in ("4b", "12b", "27b"):
        for name, reported in REPORTED[model].items():
            text = size_table()[model][name]
            assert text - 0.02 <= reported <= text + vision
