import gzip
import json
import os
import pathlib

import pytest
import tensorflow as tf

from gemma_tf_distill.config import CorpusConfig
from gemma_tf_distill.data.documents import Document, Shard, expand_sources, read_documents
from gemma_tf_distill.errors import ConfigError, CorpusError


def read(source, **arguments):
    return list(read_documents(CorpusConfig(source=source, **arguments)))


def write_tfrecord(path, *features, compression=None):
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for values in features:
            lists = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v.encode()])) for name, v in values.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString())


def test_a_text_file_is_a_document_named_by_its_file(tmp_path):
    (tmp_path / "b.txt").write_text("zweite Größe")
    (tmp_path / "a.txt").write_text("first\n\n")
    (tmp_path / "c.md").write_text("other")
    assert read(f"text:{tmp_path}/*.txt") == [Document("first\n\n", "a.txt"), Document("zweite Größe", "b.txt")]


def test_a_separator_cuts_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\n%\ntwo\n%\nthree\n%\n")
    assert [d.text for d in read(f"text:{tmp_path}/a.txt", document_separator="\n%\n")] == ["one", "two", "three"]


def test_documents_are_the_same_wherever_the_file_is_cut_for_reading(tmp_path, monkeypatch):
    from gemma_tf_distill.data import files

    text = "\ufeffä€𝄞--b--" + "x" * 20 + "--ü-"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    for size in (1, 2, 3, 5, 7, 1000):
        monkeypatch.setattr(files, "_CHUNK", max(size, 3) if size < 3 else size)
        assert [d.text for d in read(f"text:{tmp_path}/a.txt", document_separator="--")] == ["ä€𝄞", "b", "x" * 20, "ü-"]


def test_json_lines(tmp_path):
    lines = [{"body": "one", "from": "web", "n": 1}, {"body": "zwei ü \u2028 end", "from": 7}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n", encoding="utf-8")
    named = read(f"jsonl:{tmp_path}/a.jsonl", field="body", source_field="from")
    assert named == [Document("one", "web"), Document("zwei ü \u2028 end", "7")]
    assert {d.source for d in read(f"jsonl:{tmp_path}/a.jsonl", field="body")} == {"a.jsonl"}


def test_names_that_are_no_text_are_made_text(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("one")
    assert read(f"text:{tmp_path}/*.txt") == [Document("one", "caf?.txt")]
    (tmp_path / "a.jsonl").write_text('{"text": "two", "from": "a\\ud800b"}')
    assert read(f"jsonl:{tmp_path}/a.jsonl", source_field="from") == [Document("two", "a?b")]


def test_features_stand_beside_the_text_and_are_unknown_where_a_source_has_none(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one", "language": "d\\ud800e"}\n{"text": "two", "topic": 3}\n')
    (tmp_path / "a.txt").write_text("three")
    found = read((f"jsonl:{tmp_path}/a.jsonl", f"text:{tmp_path}/a.txt"), features=("language", "topic"))
    assert [(d.text, d.features) for d in found] == [
        ("one", ("d?e", "unknown")),
        ("two", ("unknown", "3")),
        ("three", ("unknown", "unknown")),
    ]
    # What a bare path holds is known by its files only.
    with pytest.raises(ConfigError, match=r"^corpus\.features must be empty where corpus\.source is docstrings and texts"):
        read(f"{tmp_path}/*.txt", features=("language",))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_tfrecords(tmp_path, ending):
    path = tmp_path / f"data_tfrecord-00000-of-00001{ending}"
    write_tfrecord(path, {"body": "one", "from": "web"}, {"body": "zwei ü", "from": "book"}, compression="GZIP" if ending else None)
    assert read(f"tfrecord:{path}", field="body", source_field="from") == [Document("one", "web"), Document("zwei ü", "book")]
    assert read(str(path), field="body") == [Document("one", path.name), Document("zwei ü", path.name)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", "text"),
        ("README", "text"),
        ("a.md.gz", "text"),
        ("a.jsonl", "jsonl"),
        ("a.JSONL.gz", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.jsonl-00001-of-00004", "jsonl"),
        ("a.tfrecord", "tfrecord"),
        ("a.tfrecords.gz", "tfrecord"),
        ("data_tfrecord-00000-of-00001.gz", "tfrecord"),
        ("my_tfrecord_notes.txt", "text"),
    ],
)
def test_a_bare_path_is_read_by_its_ending(tmp_path, name, kind):
    (tmp_path / name).touch()
    (shard,) = expand_sources(CorpusConfig(source=f"{tmp_path}/{name}"))
    assert shard == Shard(kind, (str(tmp_path / name),), "text", None, None)


def test_json_is_ambiguous(tmp_path):
    (tmp_path / "a.json").touch()
    with pytest.raises(CorpusError, match=r"write jsonl:.*a\.json for one object a line, or text:"):
        expand_sources(CorpusConfig(source=f"{tmp_path}/a.json"))


def test_several_sources_and_formats_at_once(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "two"}'))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"three"))
    assert [d.text for d in read((f"text:{tmp_path}/a.txt", f"{tmp_path}/[bc].*", "docstrings:six"))][:3] == ["one", "two", "three"]
    assert len(expand_sources(CorpusConfig(source=(f"{tmp_path}/*.txt", f"{tmp_path}/b*", "docstrings:six,yaml")))) == 3


def test_two_stars_cross_folders_and_folders_are_left_out(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "a.txt").write_text("deep")
    (tmp_path / "b.txt").write_text("flat")
    assert [d.text for d in read(f"text:{tmp_path}/**/*.txt")] == ["flat", "deep"]
    assert [d.text for d in read(f"text:{tmp_path}/*")] == ["flat"]


def test_brackets_in_a_name_are_no_pattern_where_there_is_such_a_file(tmp_path):
    (tmp_path / "a[1].txt").write_text("one")
    assert [d.text for d in read(f"text:{tmp_path}/a[1].txt")] == ["one"]


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("at home")
    assert [d.text for d in read("text:~/a.txt")] == ["at home"]


def test_remote_files_of_every_format():
    # TensorFlow's own file system in memory takes the same way as gs://.
    folder = "ram://corpus_documents"
    tf.io.gfile.makedirs(folder)
    for name, content in (("a.txt", "one"), ("b.jsonl", '{"text": "two"}'), ("c.txt.gz", gzip.compress(b"three"))):
        with tf.io.gfile.GFile(f"{folder}/{name}", "wb") as file:
            file.write(content)
    write_tfrecord(f"{folder}/d.tfrecord", {"text": "four"})
    assert [d.text for d in read(f"{folder}/*")] == ["one", "two", "three", "four"]
    with pytest.raises(CorpusError, match=r"ram://corpus_documents/\*\.csv' matches no file"):
        read(f"{folder}/*.csv")


def test_local_text_is_read_without_tensorflow(tmp_path):
    import subprocess
    import sys

    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "a.jsonl").write_text('{"text": "two"}')
    program = (
        "import sys; from gemma_tf_distill.config import CorpusConfig; from gemma_tf_distill.data import check, documents, fingerprint\n"
        f"config = CorpusConfig(source='{tmp_path}/a.*')\n"
        "print(len(list(documents.read_documents(config))), len(fingerprint.corpus_fingerprint(config)), 'tensorflow' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2], check=True)
    assert ran.stdout.split() == ["2", "64", "False"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("text:{0}/none/*.txt", "'{0}/none/[*].txt' matches no file"),
        ("{0}", "'{0}' is a folder: name the files in it, as in {0}/[*]"),
        ("text:{0}/f*", "f[*]' is a folder"),
        ("txt:{0}/a.txt", "matches no file.*did you mean text:[?]"),
        ("docstring:numpy", "matches no file.*did you mean docstrings:[?]"),
        ("ram://no_such_folder/a.txt", "ram://no_such_folder/a.txt' matches no file"),
    ],
)
def test_sources_that_are_not_there(tmp_path, source, message):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorpusError, match=message.format(tmp_path)) as caught:
        expand_sources(CorpusConfig(source=source.format(tmp_path)))
    assert "\n" not in str(caught.value)
