"""File formats of corpora: text, JSON lines, and TFRecords of tf.Examples. Each reader is a stream of (text, source name or none)."""

import codecs
import difflib
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from gemma_tf_distill.data.files import read_chunks
from gemma_tf_distill.errors import CorpusError


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


def read_jsonl(path: str, field: str, source_field: str | None) -> Iterator[tuple[str, str | None]]:
    """The documents of a file with one JSON object a line; blank lines are skipped.

    Raises:
      CorpusError: if a line is not a JSON object in UTF-8, or has no such field or no text in it; it names the line.
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
        yield text, None if source_field is None else str(_pick(values, source_field, "corpus.source_field", where))


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


def read_tfrecord(path: str, field: str, source_field: str | None) -> Iterator[tuple[str, str | None]]:
    """The documents of a TFRecord file of tf.Examples; a name that ends in `.gz` is decompressed.

    Raises:
      CorpusError: if it cannot be read, is damaged, or a record is no tf.Example or has no such feature or no text in it.
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
                features = dict(tf.train.Example.FromString(record).features.feature)
            except DecodeError as error:
                raise CorpusError(f"{where} is not a tf.Example") from error
            text = _feature_text(features, field, "corpus.field", where)
            yield text, None if source_field is None else _feature_text(features, source_field, "corpus.source_field", where)
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
    try:
        return values[0].decode()
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise CorpusError(f"{where}: {key} {name!r} is not UTF-8 text: its byte {error.start} is 0x{wrong:02x}") from error
