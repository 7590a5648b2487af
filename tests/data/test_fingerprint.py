import importlib.metadata
import os

import pytest
import tensorflow as tf

from gemma_tf_distill.config import CorpusConfig
from gemma_tf_distill.data import docstrings
from gemma_tf_distill.data.fingerprint import corpus_fingerprint
from gemma_tf_distill.errors import CorpusError


@pytest.fixture
def config(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    return CorpusConfig(source=f"text:{tmp_path}/*.txt")


def test_the_same_files_have_the_same_fingerprint(config):
    assert corpus_fingerprint(config) == corpus_fingerprint(config)
    assert len(corpus_fingerprint(config)) == 64


def test_a_longer_a_later_another_and_a_lost_file_change_it(config, tmp_path):
    seen = {corpus_fingerprint(config)}
    (tmp_path / "a.txt").write_text("longer")
    seen.add(corpus_fingerprint(config))
    os.utime(tmp_path / "a.txt", ns=(0, 12345))
    seen.add(corpus_fingerprint(config))
    (tmp_path / "c.txt").write_text("three")
    seen.add(corpus_fingerprint(config))
    (tmp_path / "c.txt").rename(tmp_path / "d.txt")
    seen.add(corpus_fingerprint(config))
    (tmp_path / "b.txt").unlink()
    seen.add(corpus_fingerprint(config))
    assert len(seen) == 6


def test_the_way_a_file_is_read_is_part_of_it(tmp_path):
    (tmp_path / "a.txt").write_text("{}")
    assert corpus_fingerprint(CorpusConfig(source=f"text:{tmp_path}/a.txt")) != corpus_fingerprint(
        CorpusConfig(source=f"jsonl:{tmp_path}/a.txt")
    )


def test_remote_files(tmp_path):
    def fingerprint(content):
        with tf.io.gfile.GFile("ram://fingerprint/a.txt", "w") as file:
            file.write(content)
        return corpus_fingerprint(CorpusConfig(source="text:ram://fingerprint/*.txt"))

    assert fingerprint("one") != fingerprint("longer")


def test_another_version_of_a_package_changes_it(monkeypatch):
    config = CorpusConfig(source="docstrings:six")
    before = corpus_fingerprint(config)
    assert before == corpus_fingerprint(config) != corpus_fingerprint(CorpusConfig(source="docstrings:yaml"))
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == "six" else version(name))
    assert corpus_fingerprint(config) != before


def test_an_edited_package_outside_site_packages_changes_it(tmp_path, monkeypatch):
    (tmp_path / "mine_of_old.py").write_text('"""One."""')
    monkeypatch.syspath_prepend(str(tmp_path))
    config = CorpusConfig(source="docstrings:mine_of_old")
    before = corpus_fingerprint(config)
    (tmp_path / "mine_of_old.py").write_text('"""Two."""')
    os.utime(tmp_path / "mine_of_old.py", ns=(0, 12345))
    assert corpus_fingerprint(config) != before


def test_packages_installed_anew_keep_it(monkeypatch, tmp_path):
    (tmp_path / "pack.py").write_text('"""One."""')
    monkeypatch.setattr(docstrings, "site_packages", lambda: [str(tmp_path)])
    config = CorpusConfig(source="docstrings:pack")
    before = corpus_fingerprint(config)
    os.utime(tmp_path / "pack.py", ns=(0, 12345))
    assert corpus_fingerprint(config) == before


def test_a_missing_source_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="matches no file"):
        corpus_fingerprint(CorpusConfig(source=f"text:{tmp_path}/*.txt"))
