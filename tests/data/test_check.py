import os

import pytest

from gemma_tf_distill.config import CorpusConfig
from gemma_tf_distill.data import check
from gemma_tf_distill.data.check import check_corpus
from gemma_tf_distill.data.splitting import document_hash, split_of
from gemma_tf_distill.errors import CorpusError


def fails(config, message):
    with pytest.raises(CorpusError, match=message) as caught:
        check_corpus(config)
    assert "\n" not in str(caught.value)


@pytest.fixture
def corpus(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02}.txt").write_text(f"{number} " + "word " * 50)
    return CorpusConfig(source=f"text:{tmp_path}/*.txt")


def test_a_good_corpus_passes(corpus):
    check_corpus(corpus)
    check_corpus(CorpusConfig(source="docstrings:numpy"))


def test_a_bad_file_is_found_although_others_would_do(corpus, tmp_path):
    (tmp_path / "zz.txt").write_bytes(b"\0" * 100)
    fails(corpus, r"zz\.txt is not text: byte 0 is NUL")


def test_a_file_without_permission_is_found(corpus, tmp_path, monkeypatch):
    # Permissions do not bind root, who may run this.
    monkeypatch.setattr(os, "access", lambda path, mode: not path.endswith("07.txt"))
    fails(corpus, r"07\.txt cannot be read: Permission denied")


def test_no_more_than_a_hundred_files_are_opened(corpus, monkeypatch):
    monkeypatch.setattr(check, "_FILES_OPENED", 10)
    opened = []
    reading = check.read_shard
    monkeypatch.setattr(check, "read_shard", lambda shard: opened.append(shard) or reading(shard))
    monkeypatch.setattr(check, "_count_until_both_splits", lambda *_: {"read": 2, "train": 1, "heldout": 1})
    check_corpus(corpus)
    assert len(opened) == 10


def test_empty_and_too_short(tmp_path, corpus):
    (tmp_path / "empty.jsonl").touch()
    fails(CorpusConfig(source=f"{tmp_path}/empty.jsonl"), "the corpus is empty: corpus.source .*empty.jsonl' holds no documents")
    short = CorpusConfig(source=corpus.source, min_characters=1000)
    fails(short, r"no documents left of .*: 40 read, 40 of them shorter than corpus\.min_characters \(1000\): lower it")


def test_all_documents_on_one_side(tmp_path):
    (tmp_path / "a.txt").write_text("word " * 60)
    inside = split_of(document_hash("word " * 60), 0.1)
    assert inside == "train"
    fails(
        CorpusConfig(source=f"{tmp_path}/a.txt"),
        r"no held-out documents in .*: 1 read, 0 shorter .* raise corpus\.heldout_fraction \(0\.1\)",
    )
    fails(CorpusConfig(source=f"{tmp_path}/a.txt", heldout_fraction=0.999), r"no training documents in .* lower corpus\.heldout_fraction")


def test_it_stops_at_the_first_document_of_each_split(corpus, monkeypatch):
    read = []
    reading = check.read_shard

    def counted(shard):
        read.append(shard.paths[0])
        yield from reading(shard)

    monkeypatch.setattr(check, "read_shard", counted)
    monkeypatch.setattr(check, "_FILES_OPENED", 1)
    splits = [split_of(document_hash(f"{number} " + "word " * 50), corpus.heldout_fraction) for number in range(40)]
    needed = max(splits.index("train"), splits.index("heldout")) + 1
    assert needed < 40
    check_corpus(corpus)
    assert len(read) == 1 + needed
