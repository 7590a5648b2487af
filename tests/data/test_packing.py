import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.data.packing import BOS_ID, EOS_ID, PAD_ID, pack

# Words proper begin at 4; an empty document is a text that has no words.
documents_and_window = st.tuples(st.lists(st.lists(st.integers(4, 99), max_size=30), max_size=12), st.integers(2, 17))


@settings(max_examples=200)
@given(documents_and_window)
def test_no_token_is_lost_or_repeated(case):
    documents, window = case
    windows = list(pack(documents, window))
    stream = np.concatenate(windows).tolist() if windows else []
    assert [token for token in stream if token not in (PAD_ID, BOS_ID)] == [token for d in documents for token in (*d, EOS_ID)]


@settings(max_examples=200)
@given(documents_and_window)
def test_every_window_begins_with_bos_and_only_the_last_is_padded_at_its_end(case):
    documents, window = case
    windows = list(pack(documents, window))
    assert bool(windows) == bool(documents)
    for number, tokens in enumerate(windows):
        assert tokens.shape == (window,)
        assert tokens.dtype == np.int64
        assert tokens[0] == BOS_ID
        padded = np.flatnonzero(tokens == PAD_ID)
        assert padded.tolist() == list(range(window - len(padded), window))
        assert len(padded) == 0 or number == len(windows) - 1
    # A last window of nothing but <bos> would train on nothing.
    assert all((tokens[1:] != PAD_ID).any() for tokens in windows)


@settings(max_examples=100)
@given(documents_and_window)
def test_bos_stands_before_each_document_and_at_the_head_of_windows_only(case):
    documents, window = case
    windows = list(pack(documents, window))
    stream = np.concatenate(windows) if windows else np.zeros(0, np.int64)
    places = np.flatnonzero(stream == BOS_ID)
    after_document = [place for place in places if place % window and stream[place - 1] == EOS_ID]
    assert len(after_document) + sum(place % window == 0 for place in places) == len(places)


def test_layout():
    windows = list(pack([[5, 6], [7, 8, 9, 10], [11]], 6))
    assert [w.tolist() for w in windows] == [[2, 5, 6, 1, 2, 7], [2, 8, 9, 10, 1, 2], [2, 11, 1, 0, 0, 0]]


def test_takes_arrays_and_other_special_ids():
    assert [w.tolist() for w in pack([np.array([5], np.int32)], 4, bos=90, eos=91, pad=92)] == [[90, 5, 91, 92]]


def test_a_window_without_room_is_refused():
    with pytest.raises(ValueError, match="at least 2 tokens, not 1"):
        next(pack([[5]], 1))
