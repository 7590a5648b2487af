import builtins
import gzip
import json

import pytest
import tensorflow as tf

from gemma_tf_distill.data.formats import Record, read_jsonl, read_text, read_tfrecord
from gemma_tf_distill.errors import CorpusError


def fails(reading, message):
    with pytest.raises(CorpusError, match=message) as caught:
        list(reading)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good \xff bad", "a.txt is not UTF-8 text: byte 5 is 0xff"),
        (b"caf\xe9", "a.txt is not UTF-8 text: byte 3 is 0xe9"),
        ("cut off é".encode()[:-1], "not UTF-8 text: byte 8 is 0xc3"),
        ("text".encode("utf-16-le"), "a.txt is not text: byte 1 is NUL, as in binary files and UTF-16"),
        (b"\x7fELF\x02\x01\x01\0", "byte 7 is NUL"),
    ],
)
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_not_text(tmp_path, monkeypatch, content, message, chunk):
    monkeypatch.setattr("gemma_tf_distill.data.files._CHUNK", chunk)
    (tmp_path / "a.txt").write_bytes(content)
    fails(read_text(str(tmp_path / "a.txt"), None), message)


def test_the_byte_is_named_far_into_a_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("ä".encode() * 1_000_000 + b"\xff")
    fails(read_text(str(tmp_path / "a.txt"), "\n"), "byte 2000000 is 0xff")


def test_text_is_a_stream(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n" * 500_000 + b"\xff")
    documents = read_text(str(tmp_path / "a.txt"), "\n")
    assert [next(documents) for _ in range(1000)] == ["one"] * 1000


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("text")
    # Reading it is an input/output error, for root too.
    fails(read_text("/proc/self/mem", None), "/proc/self/mem cannot be read: Input/output error")
    fails(read_text(str(tmp_path / "absent"), None), "absent cannot be read: No such file or directory")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"text" * 100)[:-12])
    fails(read_text(str(tmp_path / "b.txt.gz"), None), r"b\.txt\.gz cannot be read: Compressed file ended")
    (tmp_path / "c.txt.gz").write_bytes(b"no gzip")
    fails(read_text(str(tmp_path / "c.txt.gz"), None), r"c\.txt\.gz cannot be read: Not a gzipped file")
    fails(read_text("ram://formats/absent.txt", None), r"ram://formats/absent\.txt cannot be read: ")

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(path))

    # Permissions do not bind root, who may run this.
    monkeypatch.setattr(builtins, "open", refuse)
    fails(read_text(str(path), None), r"a\.txt cannot be read: Permission denied")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("text", r"line 2 is not JSON \(Expecting value\): each line must be one object such as \{\"text\": …\}"),
        ('{"text": "a"', "line 2 is not JSON"),
        ("[1, 2]", "line 2 is a list: each line must be one object"),
        ("17", "line 2 is a number"),
        ('{"body": "a", "id": 1}', "line 2 has no 'text', which corpus.field asks for: it has body, id$"),
        ('{"texts": "a"}', "line 2 has no .*: it has texts; did you mean 'texts'\\?"),
        ("{}", "line 2 .* it has nothing"),
        ('{"text": null}', "line 2: corpus.field 'text' holds null, not text"),
        ('{"text": ["a"]}', "line 2: corpus.field 'text' holds a list, not text"),
        ('{"text": "a\\ud800b"}', "line 2: character 1 of 'text' is half of a surrogate pair"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_json_lines_that_are_wrong(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n' + line + "\n")
    reading = read_jsonl(str(tmp_path / "a.jsonl"), "text", None)
    assert next(reading) == Record("first", None)
    fails(reading, f"a.jsonl, {message}")


def test_json_lines_without_the_source_field(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a", "origin": "b"}))
    fails(read_jsonl(str(tmp_path / "a.jsonl"), "text", "source"), "line 1 has no 'source', which corpus.source_field asks for")


def test_features_of_json_lines(tmp_path):
    lines = [
        {"text": "a", "language": "de", "year": 2024, "beta": True},
        {"text": "b", "language": None, "year": 1.5, "beta": False},
        {"text": "c", "language": "", "beta": "true"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = [record.features for record in read_jsonl(str(tmp_path / "a.jsonl"), "text", None, ["language", "year", "beta"])]
    assert found == [("de", "2024", "true"), ("unknown", "1.5", "false"), ("unknown", "unknown", "true")]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["de", "en"], r"a list \(\[\"de\", \"en\"\]\), not one text, number, true or false$"),
        ({"code": "de"}, r"an object \(\{\"code\": \"de\"\}\), not one"),
        (["ü" * 500], r"a list \(\[\"ü{78}…\), not one"),
    ],
)
def test_features_of_json_lines_that_are_no_single_value(tmp_path, value, words):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + json.dumps({"text": "b", "language": value}))
    fails(
        read_jsonl(str(tmp_path / "a.jsonl"), "text", None, ["language"]),
        rf"a\.jsonl, line 2: 'language' of corpus\.features is {words}",
    )


def test_json_lines_that_are_binary(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n\0\0')
    fails(read_jsonl(str(tmp_path / "a.jsonl"), "text", None), "byte 14 is NUL")


def record(**features):
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def texts(*values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"\xff\xff\xff", "record 2 is not a tf.Example"),
        (record(texts=texts(b"a")), "record 2 has no 'text', which corpus.field asks for: it has texts; did you mean 'texts'"),
        (record(text=texts(b"a", b"b")), "record 2: corpus.field 'text' is bytes_list with 2 texts, not one text"),
        (record(text=tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))), "record 2: .* is int64_list with 0 texts"),
        (record(text=tf.train.Feature()), "record 2: .* is empty with 0 texts"),
        (record(text=texts(b"ab\xff")), "record 2: corpus.field 'text' is not UTF-8 text: its byte 2 is 0xff"),
    ],
)
def test_records_that_are_wrong(tmp_path, bad, message):
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(record(text=texts(b"first")))
        writer.write(bad)
    reading = read_tfrecord(path, "text", None)
    assert next(reading) == Record("first", None)
    fails(reading, f"a.tfrecord, {message}")


def test_features_of_records(tmp_path):
    path = str(tmp_path / "a.tfrecord")
    numbers = {"year": tf.train.Feature(int64_list=tf.train.Int64List(value=[2024]))}
    numbers |= {"score": tf.train.Feature(float_list=tf.train.FloatList(value=[0.1]))}
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(record(text=texts(b"a"), language=texts("zh-简".encode()), **numbers))
        writer.write(record(text=texts(b"b"), language=texts(b""), year=texts(), score=tf.train.Feature()))
        writer.write(record(text=texts(b"c"), language=texts(b"de", b"en")))
    reading = read_tfrecord(path, "text", None, ["language", "year", "score"])
    assert [next(reading).features, next(reading).features] == [("zh-简", "2024", "0.1"), ("unknown", "unknown", "unknown")]
    fails(reading, r"a\.tfrecord, record 3: 'language' of corpus\.features is bytes_list with 2 values, not one")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(record(text=texts(b"a"), language=texts(b"d\xff")))
    fails(read_tfrecord(path, "text", None, ["language"]), "record 1: corpus.features 'language' is not UTF-8 text: its byte 1 is 0xff")


def test_damaged_record_files(tmp_path):
    path = tmp_path / "a.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(3):
            writer.write(record(text=texts(b"first")))
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    fails(read_tfrecord(str(path), "text", None), "a.tfrecord is damaged after record 2$")
    path.write_bytes(b"\x01" + content[1:])
    fails(read_tfrecord(str(path), "text", None), "a.tfrecord is damaged, or no TFRecord file, or compressed otherwise than its name says")
    path.write_bytes(gzip.compress(content))
    fails(read_tfrecord(str(path), "text", None), "compressed otherwise than its name says")
    fails(read_tfrecord(str(tmp_path / "absent.tfrecord"), "text", None), "absent.tfrecord cannot be read")
