"""Schedules begin and end where they say, and never leave that range."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.config import Schedule
from gemma_tf_distill.training.schedules import value_at


def test_linear_and_cosine():
    linear, cosine = (Schedule(start=4.0, end=1.0, shape=shape) for shape in ("linear", "cosine"))
    at = [tf.constant(x) for x in (0.0, 0.25, 0.5, 1.0)]
    np.testing.assert_allclose([value_at(linear, x) for x in at], [4.0, 3.25, 2.5, 1.0], rtol=1e-6)
    quarter = 4 - 3 * (1 - np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose([value_at(cosine, x) for x in at], [4.0, quarter, 2.5, 1.0], rtol=1e-6)
    assert value_at(2.5, at[1]) == 2.5


@settings(max_examples=30, deadline=None)
@given(
    start=st.floats(0, 10, width=32),
    end=st.floats(0, 10, width=32),
    progress=st.floats(0, 1, width=32),
    shape=st.sampled_from(["linear", "cosine"]),
)
def test_it_stays_between_its_ends(start, end, progress, shape):
    value = float(value_at(Schedule(start=start, end=end, shape=shape), tf.constant(progress)))
    # Rounding of float32 at this size.
    assert min(start, end) - 1e-5 <= value <= max(start, end) + 1e-5
