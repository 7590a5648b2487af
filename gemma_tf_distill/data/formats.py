"""File formats of corpora: text, JSON lines, and TFRecords of tf.Examples. Each reader is a stream."""

import codecs
import difflib
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gemma_tf_distill.data.files import read_chunks
from gemma_tf_distill.errors import CorpusError

# Characters of a wrong value that an error shows.
_LONGEST_SHOWN = 80

MISSING = "unknown"
"""The value of a feature that a document does not have, or that is null or empty."""


class Record(NamedTuple):
    """What a line of JSON or a tf.Example holds.

    Attributes:
      text: the document.
      source: the name of its source; none where no field of it is asked for.
      features: the values of the features that are asked for, in their order.
    """

    text: str
    source: str | None
    features: tuple[str, ...] = ()


def read_text(path: str, separator: str | None) -> Iterator[str]:
    """The documents of a text file in UTF-8: what stands between separators, or the whole file.

    Raises:
      CorpusError: if the file is not UTF-8 text; it names the byte.
    """
    rest = ""
    for piece in _decoded(path, read_chunks(path)):
        # A separator may lie across two pieces, never wholly in what was searched before.
        begin = max(0, len(rest) - len(separator or "") + 1)
        rest += piece
        while separator and (end := rest.find(separator, begin)) >= 0:
            yield rest[:end]
            rest, begin = rest[end + len(separator) :], 0
    if rest or not separator:
        yield rest


def _decoded(path: str, chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    for chunk in itertools.chain(chunks, (b"",)):
        nul = chunk.find(b"\0")
        if nul >= 0:
            raise CorpusError(f"{path} is not text: byte {offset + nul} is NUL, as in binary files and UTF-16")
        pending = len(decoder.getstate()[0])
        try:
            piece = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            wrong = offset - pending + error.start
            raise CorpusError(f"{path} is not UTF-8 text: byte {wrong} is 0x{error.object[error.start]:02x}") from error
        yield piece.removeprefix("\ufeff") if offset == 0 else piece
        offset += len(chunk)


def read_jsonl(path: str, field: str, source_field: str | None, features: Iterable[str] = ()) -> Iterator[Record]:
    """The documents of a file with one JSON object a line; blank lines are skipped.

    Raises:
      CorpusError: if a line is not a JSON object in UTF-8, has no such field or no text in it, or a list or object as a feature; it names
        the line.
    """
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise CorpusError(f"{where} is not JSON ({reason}): each line must be one object such as {{{json.dumps(field)}: …}}") from error
        if not isinstance(values, dict):
            raise CorpusError(f"{where} is {_kind(values)}: each line must be one object such as {{{json.dumps(field)}: …}}")
        text = _pick(values, field, "corpus.field", where)
        if not isinstance(text, str):
            raise CorpusError(f"{where}: corpus.field {field!r} holds {_kind(text)}, not text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(f"{where}: character {error.start} of {field!r} is half of a surrogate pair, which is no text") from error
        source = None if source_field is None else str(_pick(values, source_field, "corpus.source_field", where))
        yield Record(text, source, tuple(_json_value(values.get(name), name, where) for name in features))


def _json_value(value: Any, name: str, where: str) -> str:
    if isinstance(value, (list, dict)):
        shown = json.dumps(value, ensure_ascii=False)
        shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
        raise CorpusError(f"{where}: {name!r} of corpus.features is {_kind(value)} ({shown}), not one text, number, true or false")
    if value is None or value == "":
        return MISSING
    return value if isinstance(value, str) else json.dumps(value)


def _lines(path: str) -> Iterator[str]:
    rest = ""
    for piece in _decoded(path, read_chunks(path)):
        *lines, rest = (rest + piece).split("\n")
        yield from lines
    yield rest


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names[type(value)]


def _pick(values: dict[str, Any], name: str, key: str, where: str) -> Any:
    if name in values:
        return values[name]
    near = difflib.get_close_matches(name, values, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise CorpusError(f"{where} has no {name!r}, which {key} asks for: it has {', '.join(sorted(values)) or 'nothing'}{hint}")


def read_tfrecord(path: str, field: str, source_field: str | None, features: Iterable[str] = ()) -> Iterator[Record]:
    """The documents of a TFRecord file of tf.Examples; a name that ends in `.gz` is decompressed.

    Raises:
      CorpusError: if it cannot be read, is damaged, or a record is no tf.Example, has no such feature or no text in it, or several values
        in one of `features`.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    dataset = tf.data.TFRecordDataset([path], compression_type="GZIP" if path.endswith(".gz") else "")
    number = 0
    try:
        for record in dataset.as_numpy_iterator():
            number += 1
            where = f"{path}, record {number}"
            try:
                found = dict(tf.train.Example.FromString(record).features.feature)
            except DecodeError as error:
                raise CorpusError(f"{where} is not a tf.Example") from error
            text = _feature_text(found, field, "corpus.field", where)
            source = None if source_field is None else _feature_text(found, source_field, "corpus.source_field", where)
            yield Record(text, source, tuple(_feature_value(found, name, where) for name in features))
    except tf.errors.DataLossError as error:
        if number:
            raise CorpusError(f"{path} is damaged after record {number}") from error
        raise CorpusError(f"{path} is damaged, or no TFRecord file, or compressed otherwise than its name says (.gz)") from error
    except tf.errors.OpError as error:
        raise CorpusError(f"{path} cannot be read: {' '.join(error.message.split())}") from error


def _feature_text(features: dict[str, Any], name: str, key: str, where: str) -> str:
    feature = _pick(features, name, key, where)
    values = feature.bytes_list.value
    if len(values) != 1:
        raise CorpusError(f"{where}: {key} {name!r} is {feature.WhichOneof('kind') or 'empty'} with {len(values)} texts, not one text")
    return _decoded_text(values[0], name, key, where)


def _feature_value(features: dict[str, Any], name: str, where: str) -> str:
    feature = features.get(name)
    kind = feature.WhichOneof("kind") if feature else None
    if kind is None:
        return MISSING
    values = getattr(feature, kind).value
    if len(values) > 1:
        raise CorpusError(f"{where}: {name!r} of corpus.features is {kind} with {len(values)} values, not one")
    if not values or values[0] == b"":
        return MISSING
    if kind == "bytes_list":
        return _decoded_text(values[0], name, "corpus.features", where)
    # A float as short as its 32 bits allow: 0.1, not the double that is next to it.
    return str(np.float32(values[0]) if kind == "float_list" else values[0])


def _decoded_text(value: bytes, name: str, key: str, where: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise CorpusError(f"{where}: {key} {name!r} is not UTF-8 text: its byte {error.start} is 0x{wrong:02x}") from error
