"""Draws have the distribution that temperature, top-k and top-p leave."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.export import sampling
from gemma_tf_distill.export.sampling import sampled

DRAWS = 20_000


@tf.function
def draws(logits, temperature, top_k, top_p, seed):
    return sampled(temperature, top_k, top_p, seed)(tf.repeat(logits[tf.newaxis], DRAWS, axis=0), tf.constant(0))


def shares(logits, temperature=1.0, top_k=0, top_p=1.0, seed=0):
    ids = draws(*(tf.constant(value) for value in (np.float32(logits), temperature, top_k, top_p, seed)))
    return np.bincount(ids.numpy(), minlength=len(logits)) / DRAWS


def expected(logits, temperature=1.0, top_k=0, top_p=1.0):
    """The same in plain NumPy: rank, cut, normalise."""
    p = np.exp(np.asarray(logits) / temperature)
    order = np.argsort(-p, kind="stable")
    p = p[order]
    if top_k:
        p[top_k:] = 0
    p /= p.sum()
    before = np.cumsum(p) - p
    p[1:][before[1:] >= top_p] = 0
    result = np.zeros_like(p)
    result[order] = p / p.sum()
    return result


@settings(max_examples=30, deadline=None)
@given(
    logits=st.lists(st.floats(-4, 4), min_size=6, max_size=6, unique=True),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 100]),
    top_p=st.sampled_from([0.05, 0.45, 0.9, 1.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_draws_have_the_distribution_that_is_left(logits, temperature, top_k, top_p, seed):
    wanted = expected(logits, temperature, top_k, top_p)
    found = shares(logits, temperature, top_k, top_p, seed)
    # Six standard deviations of a share, at its largest; a word more or less in a tie of the cut is left to the other tests.
    near_the_cut = np.abs(np.cumsum(np.sort(expected(logits, temperature, top_k))[::-1]) - top_p).min() < 1e-5
    if not near_the_cut:
        assert np.abs(found - wanted).max() < 6 * 0.5 / np.sqrt(DRAWS)
        assert not found[wanted == 0].any()


def test_what_is_not_ranked_counts_in_the_nucleus(monkeypatch):
    monkeypatch.setattr(sampling, "RANKED", 2)
    choose = sampled(*(tf.constant(value) for value in (1.0, 0, 0.5, 0)))
    # Each word has a quarter: half of all is two of them, and would be one of the two that are ranked.
    ids = choose(tf.zeros([DRAWS, 4]), tf.constant(0)).numpy()
    np.testing.assert_allclose(np.bincount(ids) / DRAWS, [0.5, 0.5], atol=0.02)


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_no_temperature_is_greedy(value):
    assert shares([1.0, 3.0, 2.0], temperature=value)[1] == 1
