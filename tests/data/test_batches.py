"""Batches come in an order that the seed fixes, and evaluation sees every window once."""

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.data.batches import count_split, evaluation_batches, split_files, training_batches
from gemma_tf_distill.data.examples import scored_example
from gemma_tf_distill.errors import CorpusError

WINDOW, TOP_K, WINDOWS = 6, 2, 11


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples") / "Split-train"
    folder.mkdir()
    random = np.random.default_rng(0)
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / f"part-{shard}.gz"), options="GZIP") as writer:
            for i in range(shard, WINDOWS, 2):
                tokens = np.array([2, 10 + i, 11, 12, 2, 0])
                scored = random.integers(0, 99, (5, 2)), -random.random((5, 2)), -random.random(5)
                writer.write(scored_example(tokens, b"x", *scored).SerializeToString())
    return split_files(str(folder.parent), "train")


def firsts(dataset, batches):
    return [batch["tokens"][:, 1].numpy().tolist() for batch in dataset.take(batches)]


def make(shards, **changes):
    return training_batches(shards, **({"window": WINDOW, "top_k": TOP_K, "batch_size": 3, "seed": 1} | changes))


def test_the_same_seed_gives_the_same_batches_and_skipping_continues_them(shards):
    order = firsts(make(shards), 8)
    assert firsts(make(shards), 8) == order
    assert firsts(make(shards, skip=3), 5) == order[3:]
    assert firsts(make(shards, seed=2), 8) != order


def test_every_epoch_holds_every_window(shards):
    order = [first for batch in firsts(make(shards), WINDOWS) for first in batch]
    for epoch in range(3):
        assert sorted(order[epoch * WINDOWS : (epoch + 1) * WINDOWS]) == [10 + i for i in range(WINDOWS)]
    assert order[:WINDOWS] != order[WINDOWS : 2 * WINDOWS]


def test_evaluation_sees_every_window_once_and_fills_up_with_padding(shards):
    batches = list(evaluation_batches(shards, window=WINDOW, top_k=TOP_K, batch_size=4))
    tokens = np.concatenate([batch["tokens"] for batch in batches])
    assert tokens.shape == (12, WINDOW) and batches[-1]["teacher_log_probs"].shape == (4, WINDOW - 1, TOP_K)
    assert sorted(tokens[:WINDOWS, 1]) == [10 + i for i in range(WINDOWS)]
    assert not tokens[WINDOWS:].any()


def test_counts_labels_that_are_neither_padding_nor_bos(shards):
    assert count_split(shards, WINDOW) == (WINDOWS, 3 * WINDOWS)


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(CorpusError, match="'heldout'"):
        split_files(str(tmp_path), "heldout")
