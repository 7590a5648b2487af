import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.data.splitting import (
    EVERYTHING,
    HELDOUT,
    TRAIN,
    Sample,
    document_hash,
    long_enough,
    packing_bucket,
    sampling_position,
    split_of,
)

DIGESTS = [document_hash(f"document {number}") for number in range(4000)]


def test_identity_is_the_sha256_of_the_text():
    assert document_hash("naïve") == hashlib.sha256("naïve".encode()).digest()


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_the_fraction_is_held_out(fraction):
    share = np.mean([split_of(digest, fraction) == HELDOUT for digest in DIGESTS])
    # Four standard deviations of a binomial share of 4,000.
    assert abs(share - fraction) < 4 * (fraction * (1 - fraction) / 4000) ** 0.5


def test_a_larger_fraction_only_moves_documents_out_of_training():
    small = {digest for digest in DIGESTS if split_of(digest, 0.1) == HELDOUT}
    large = {digest for digest in DIGESTS if split_of(digest, 0.3) == HELDOUT}
    assert small < large


def test_split_sampling_and_bucket_are_independent():
    heldout = np.array([split_of(digest, 0.5) == HELDOUT for digest in DIGESTS], float)
    position = np.array([sampling_position(digest) for digest in DIGESTS], float)
    bucket = np.array([packing_bucket(digest, 7) for digest in DIGESTS], float)
    correlations = np.corrcoef([heldout, position, bucket])
    # Four standard deviations of a correlation of 4,000 independent pairs.
    assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 4 / 4000**0.5


def test_buckets_are_all_used():
    assert {packing_bucket(digest, 7) for digest in DIGESTS} == set(range(7))


def test_positions_are_in_range():
    assert 0 <= sampling_position(bytes(32)) < sampling_position(b"\xff" * 32) < EVERYTHING
    assert split_of(bytes(32), 0.001) == HELDOUT
    assert split_of(b"\xff" * 32, 0.999) == TRAIN


def test_white_space_around_a_document_does_not_make_it_longer():
    assert long_enough(" abc\n", 3)
    assert not long_enough("  a b \n\n\n", 4)
    assert not long_enough(" " * 500, 1)


weights = st.lists(st.tuples(st.integers(0, 2**20 - 1), st.integers(1, 50)), min_size=1, max_size=60)


@settings(max_examples=150)
@given(weights, st.integers(1, 1500), st.sampled_from([2**20, 2**20 + 7, EVERYTHING]))
def test_a_cut_holds_the_limit_and_no_document_more_than_needed(documents, limit, below):
    positions = [position * (below // 2**20) for position, _ in documents]
    sample = Sample(below)
    for position, (_, weight) in zip(positions, documents, strict=True):
        sample.add(position, weight)
    cut = sample.cut(limit)
    kept = [(position, weight) for position, (_, weight) in zip(positions, documents, strict=True) if position < cut]
    if sample.total <= limit:
        assert cut == below
        assert len(kept) == len(documents)
        return
    assert sum(weight for _, weight in kept) >= limit
    # Without the last bucket (one part in 65,536 of the range) the limit is not reached.
    last = max(position for position, _ in kept) * 65536 // below
    assert sum(weight for position, weight in kept if position * 65536 // below < last) < limit


@given(weights, st.integers(0, 60))
@settings(max_examples=50)
def test_samples_of_workers_add_up(documents, at):
    whole, first, second = Sample(2**20), Sample(2**20), Sample(2**20)
    for number, (position, weight) in enumerate(documents):
        whole.add(position, weight)
        (first if number < at else second).add(position, weight)
    first.merge(second)
    assert first.total == whole.total == sum(weight for _, weight in documents)
    assert first.cut(100) == whole.cut(100)


def test_no_limit_keeps_everything():
    sample = Sample()
    sample.add(EVERYTHING - 1, 10)
    assert sample.cut(None) == sample.cut(10) == EVERYTHING


def test_the_smallest_limit_keeps_a_document():
    sample = Sample()
    for digest in DIGESTS[:50]:
        sample.add(sampling_position(digest), 1000)
    below = sample.cut(1)
    assert sum(sampling_position(digest) < below for digest in DIGESTS[:50]) == 1
