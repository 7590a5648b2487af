"""A store is what its address says, or it is refused; a damaged shard is named, and its neighbours are still read."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.data.examples import target_example
from gemma_tf_distill.errors import TargetsError
from gemma_tf_distill.teacher.codec import encode_draws, encode_top_k
from gemma_tf_distill.teacher.target_store import INDEX, TargetAddress, TargetStore, write_index

WINDOW, WORDS, SHARDS = 6, 4, 3
ADDRESS = TargetAddress(teacher="a", tokenizer="b" * 64, corpus="c", kind="top_k", words=WORDS, least_probability=1e-4, temperature=1.0)


def make(root: pathlib.Path, address=ADDRESS) -> str:
    (root / "Split-train").mkdir(parents=True)
    (root / "Split-heldout").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(root / "Split-heldout" / "scored-0.gz"), options="GZIP") as writer:
        writer.write(target_example(np.array([2, 10, 20, 30, 31, 0]), b"x", b"").SerializeToString())
    random = np.random.default_rng(0)
    for shard in range(SHARDS):
        with tf.io.TFRecordWriter(str(root / "Split-train" / f"scored-{shard}.gz"), options="GZIP") as writer:
            for i in range(4):
                tokens = np.array([2, 10 + i, 20 + shard, 30, 31, 0])
                ids = np.stack([random.choice(99, WORDS, replace=False) for _ in range(WINDOW - 1)])
                targets = {
                    "top_k": lambda ids: encode_top_k(ids, np.log(np.full(ids.shape, 0.2))),
                    "sampled": encode_draws,
                    "dense": lambda ids: b"",
                }[address.kind](ids)
                writer.write(target_example(tokens, b"x", targets).SerializeToString())
    write_index(str(root), address, WINDOW)
    return str(root)


@pytest.fixture
def root(tmp_path):
    return make(tmp_path / "store")


def test_it_says_what_it_holds(root):
    store = TargetStore(root, ADDRESS)
    assert (store.windows, store.tokens) == (12, 12 * 4)
    assert store.index["bytes_per_token"] == sum(file.stat().st_size for file in pathlib.Path(root).glob("Split-train/*")) / 48
    assert store.damaged() == {}


@pytest.mark.parametrize("kind", ["top_k", "sampled", "dense"])
def test_batches(tmp_path, kind):
    address = dataclasses.replace(ADDRESS, kind=kind)
    store = TargetStore(make(tmp_path / kind, address), address)
    batches = list(store.batches(store.files(), batch_size=5, seed=1).take(4))
    again = list(store.batches(store.files(), batch_size=5, seed=1, skip=2).take(2))
    assert {(int(t[1]), int(t[2])) for batch in batches for t in batch["tokens"]} == {(10 + i, 20 + s) for i in range(4) for s in range(3)}
    for batch, later in zip(batches[2:], again, strict=True):
        for name in batch:
            np.testing.assert_array_equal(batch[name], later[name])
    if kind == "dense":
        assert batches[0].keys() == {"tokens"}
    else:
        assert batches[0]["teacher_ids"].shape == batches[0]["teacher_log_probs"].shape == [5, WINDOW - 1, WORDS]
        # Four of five equal probabilities, or four distinct draws.
        expected = 0.8 if kind == "top_k" else 1.0
        np.testing.assert_allclose(tf.reduce_sum(tf.exp(batches[0]["teacher_log_probs"]), -1), expected, rtol=0.02)


def test_targets_of_something_else_are_refused_by_their_address(root):
    for change, message in (
        ({"teacher": "another"}, "teacher is a and not another"),
        ({"corpus": "news"}, "corpus is c and not news"),
        ({"words": 8}, "words is 4 and not 8"),
        (
            {"temperature": 2.0, "tokenizer": "d" * 64},
            "tokenizer is bbbbbbbbbbbbbbbbbbbb… and not dddddddddddddddddddd…; temperature is 1.0",
        ),
    ):
        other = dataclasses.replace(ADDRESS, **change)
        assert other.digest != ADDRESS.digest
        with pytest.raises(TargetsError, match=message):
            TargetStore(root, other)


def test_a_truncated_shard_is_named_and_its_neighbours_are_read(root):
    shard = pathlib.Path(root) / "Split-train" / "scored-1.gz"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:40])
    store = TargetStore(root)
    with pytest.raises(
        TargetsError, match=rf"scored-1\.gz: it is truncated: 40 bytes of {len(whole)}\): score the corpus again, or read the"
    ):
        store.files()
    files = store.files(skip_damaged=True)
    seen = {int(t[2]) for batch in store.batches(files, batch_size=4, seed=0).take(2) for t in batch["tokens"]}
    assert seen == {20, 22}
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert store.damaged() == {"scored-1.gz": "its sha256 is not the one in the index"}
    shard.unlink()
    assert store.damaged() == {"scored-1.gz": "it is missing"}


def test_a_truncated_heldout_shard_is_named(root):
    shard = pathlib.Path(root) / "Split-heldout" / "scored-0.gz"
    assert TargetStore(root).heldout_files() == [str(shard)]
    shard.write_bytes(shard.read_bytes()[:30])
    with pytest.raises(TargetsError, match=r"held-out windows in .* are damaged \(scored-0\.gz: it is truncated: 30 bytes of"):
        TargetStore(root).heldout_files()


def test_an_index_that_is_missing_or_damaged(root):
    whole = json.loads((pathlib.Path(root) / INDEX).read_text())
    for content in ({"address": {}}, {"address": whole["address"]}, [], {**whole, "windows": "many"}):
        (pathlib.Path(root) / INDEX).write_text(json.dumps(content))
        with pytest.raises(TargetsError, match=r"targets\.json is missing or damaged, score the corpus again"):
            TargetStore(root)
    (pathlib.Path(root) / INDEX).unlink()
    with pytest.raises(TargetsError, match=r"targets\.json is missing or damaged"):
        TargetStore(root)
