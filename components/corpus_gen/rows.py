"""Steps of CorpusGen that count what documents are made of, for whoever validates them: windows do not show where a document ends."""

import gzip
import json
import os
import uuid
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from components.corpus_gen.selection import Item, named_features
from gemma_tf_distill.gemma.vocabulary import Vocabulary

# A sample of this size moves no distribution that anybody would look at, and fits the memory of one worker.
MOST_DOCUMENTS = 100_000

# Digest of the document, and its row as JSON.
Row = tuple[bytes, str]


def document_row(item: Item, vocabulary: Vocabulary, features: Sequence[str] = ()) -> tuple[str, Row]:
    """A document with the student's ids → its split and row; `features` are the names of its own."""
    counts = count_tokens(np.frombuffer(item.ids, np.int32), item.characters, vocabulary)
    return item.split, (item.digest, json.dumps({"source": item.source, **dict(named_features(item, features)), **counts}))


def count_tokens(ids: np.ndarray, characters: int, vocabulary: Vocabulary) -> dict[str, int]:
    """What a text is made of.

    Args:
      ids: int [tokens], the student's, without specials.
      characters: of the text.
      vocabulary: the student's.

    Returns:
      `tokens`, `characters`, `byte_tokens` (a byte piece each) and `unknown_tokens` (`<unk>`).
    """
    return {
        "tokens": len(ids),
        "characters": characters,
        "byte_tokens": int(np.count_nonzero(vocabulary.is_byte[ids])),
        "unknown_tokens": int(np.count_nonzero(ids == vocabulary.tokenizer.unk_id)),
    }


def write_rows(rows: tuple[str, Sequence[Row]], examples_uri: str) -> None:
    """Writes the rows of a split beside its windows, whole or not at all."""
    split, documents = rows
    path = _path(examples_uri, split)
    tf.io.gfile.makedirs(os.path.dirname(path))
    partial = f"{path}.{uuid.uuid4().hex}"
    text = "".join(f"{row}\n" for _, row in sorted(documents))
    with tf.io.gfile.GFile(partial, "wb") as file:
        # Without the time of writing: the same documents should be the same bytes.
        file.write(gzip.compress(text.encode(), mtime=0))
    tf.io.gfile.rename(partial, path, overwrite=True)


def read_rows(examples_uri: str, split: str) -> list[dict[str, str | int]]:
    """What `write_rows` wrote: `source`, features and the counts of `count_tokens` of each document, of `MOST_DOCUMENTS` at the most."""
    with tf.io.gfile.GFile(_path(examples_uri, split), "rb") as file:
        return [json.loads(line) for line in gzip.decompress(file.read()).decode().split("\n") if line]


def _path(examples_uri: str, split: str) -> str:
    return os.path.join(examples_uri, "documents", f"{split}.jsonl.gz")
