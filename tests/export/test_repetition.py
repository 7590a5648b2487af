"""How much of a completion was in it before."""

import pytest

from gemma_tf_distill.export.repetition import repetition_rate


@pytest.mark.parametrize(
    ("completions", "rate"),
    [
        ([[1, 2, 3, 4, 5, 6]], 0.0),
        # Five 4-grams, of which 1 2 3 1, 2 3 1 2 and 3 1 2 3 are new.
        ([[1, 2, 3, 1, 2, 3, 1, 2]], 2 / 5),
        ([[7] * 10], 6 / 7),
        # What another completion has is nothing repeated.
        ([[1, 2, 3, 4], [1, 2, 3, 4], [9]], 0.0),
        ([[1, 2, 3], []], None),
        ([], None),
    ],
)
def test_the_rate(completions, rate):
    assert repetition_rate(completions) == (None if rate is None else pytest.approx(rate))
