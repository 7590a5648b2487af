"""What is stored comes back: to the bit for draws, within the stated error for log-probabilities."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.errors import TargetsError
from gemma_tf_distill.teacher.codec import LEAST_LOG_PROB, decode_draws, decode_top_k, encode_draws, encode_top_k


def best_words(seed, tokens=7, k=9, words=300_000):
    """Ids beyond two bytes too, with probabilities that may be tiny."""
    random = np.random.default_rng(seed)
    ids = np.stack([random.choice(words, k, replace=False) for _ in range(tokens)])
    logits = random.normal(size=(tokens, k + 1)) * random.uniform(0.1, 8)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    # int32, as the scorers give them.
    return ids.astype(np.int32), np.sort(log_probs[:, :k].astype(np.float32), axis=1)[:, ::-1]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), least=st.floats(-12, -0.5))
def test_top_k_comes_back_within_the_stated_error(seed, least):
    ids, log_probs = best_words(seed)
    found_ids, found = decode_top_k(encode_top_k(ids, log_probs, least), 7, 9)
    for token in range(7):
        expected = {i: x for i, x in zip(ids[token], log_probs[token], strict=True) if x >= max(least, LEAST_LOG_PROB + 0.04)}
        here = dict(zip(found_ids[token][found[token] > -1e8], found[token][found[token] > -1e8], strict=True))
        assert expected.keys() <= here.keys()
        assert all(x >= least for i, x in zip(ids[token], log_probs[token], strict=True) if i in here)
        for word, value in expected.items():
            # Beyond its own rounding, what keeps the token's sum at 1.
            assert here[word] - value + np.sqrt(-value) / 80 >= -0.03 and here[word] - value <= np.sqrt(-value) / 80 + 1e-4
        assert np.all(np.diff(found_ids[token][: len(here)]) > 0)


def test_probabilities_never_sum_to_more_than_1():
    # All ten words of each token, so that nothing is left for the tail, and half of the roundings go up.
    for seed in range(50):
        logits = np.random.default_rng(seed).normal(size=(7, 10))
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        ids = np.tile(np.arange(10), (7, 1))
        found_ids, found = decode_top_k(encode_top_k(ids, log_probs), 7, 10)
        np.testing.assert_array_equal(found_ids, ids)
        assert np.exp(found).sum(1).max() <= 1 + 1e-6
        # What a sum above 1 takes back: its rounding errors, each weighed by its probability.
        assert np.all(np.abs(found - log_probs) <= np.sqrt(-log_probs) / 80 + 0.03)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), draws=st.integers(1, 300), words=st.sampled_from([1, 5, 300_000]))
def test_draws_come_back_to_the_bit(seed, draws, words):
    ids = np.random.default_rng(seed).integers(0, words, size=(5, draws), dtype=np.int32)
    found, log_shares = decode_draws(encode_draws(ids), 5, draws)
    for token in range(5):
        expected, counts = np.unique(ids[token], return_counts=True)
        np.testing.assert_array_equal(found[token][: len(expected)], expected)
        np.testing.assert_allclose(np.exp(log_shares[token][: len(expected)]) * draws, counts, rtol=1e-5)
        assert np.all(log_shares[token][len(expected) :] < -1e8)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 0.5])
def test_what_is_no_log_probability_is_refused(wrong):
    ids, log_probs = best_words(0)
    log_probs = log_probs.copy()
    log_probs[4, 2] = wrong
    with pytest.raises(TargetsError, match=f"word {ids[4, 2]} at position 4 is {wrong}: it must be a finite number of at most 0"):
        encode_top_k(ids, log_probs)


def test_damaged_bytes_and_other_sizes_are_refused():
    with pytest.raises(TargetsError, match="not those of 5 tokens"):
        decode_top_k(zlib.compress(b"abc"), 5, 4)
    data = encode_top_k(*best_words(1))
    with pytest.raises(TargetsError, match="damaged"):
        decode_top_k(data[:-5], 7, 9)
    with pytest.raises(TargetsError, match="not those of 8 tokens with at most 9 words"):
        decode_top_k(data, 8, 9)
    with pytest.raises(TargetsError, match="not those of 7 tokens with at most 3 words"):
        decode_top_k(data, 7, 3)
    with pytest.raises(TargetsError, match="another number of draws than 8"):
        decode_draws(encode_draws(np.ones([2, 4], int)), 2, 8)
