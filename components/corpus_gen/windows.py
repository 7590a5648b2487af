"""Steps of CorpusGen that pack documents into windows and write them."""

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from components.corpus_gen.selection import Item
from gemma_tf_distill.data.packing import PAD_ID, pack
from gemma_tf_distill.data.splitting import packing_bucket

# Documents that are packed together are sorted in the memory of one worker: 4 MB of ids.
GROUP_TOKENS = 1 << 20
# A gzip file is read by one worker. At a thousand tokens a second, which is what a core scores with the 270M teacher, this many take
# four minutes: enough to be worth a start, little enough to share the work and to do it again.
SHARD_TOKENS = 1 << 18
# So many windows at the least, so that none of the files, which windows go to by a hash, stays empty.
SHARD_WINDOWS = 64
# More files than this cost more to list and open than they help.
MAX_SHARDS = 1000

# Split, source, bucket.
Group = tuple[str, str, int]
# Split, number of the file, number of files.
OutputShard = tuple[str, int, int]
# Place in the order of windows (a hash in [0, 2**56)), tokens that are not padding, serialized tf.Example.
Window = tuple[int, int, bytes]


def source_tokens(item: Item) -> tuple[tuple[str, str], int]:
    """((split, source), tokens) of a document, its `<bos>` and `<eos>` included."""
    return (item.split, item.source), len(item.ids) // 4 + 2


def is_large(size: tuple[tuple[str, str], int]) -> bool:
    """Whether a source needs several groups."""
    return size[1] > GROUP_TOKENS


def group_of(item: Item, large: Mapping[tuple[str, str], int]) -> tuple[Group, tuple[bytes, bytes]]:
    """((split, source, bucket), (digest, ids)): documents are packed with others of their source, in buckets where it is large."""
    buckets = -(-large.get((item.split, item.source), 1) // GROUP_TOKENS)
    return (item.split, item.source, packing_bucket(item.digest, buckets)), (item.digest, item.ids)


def pack_group(group: tuple[Group, Iterable[tuple[bytes, bytes]]], window: int) -> Iterator[tuple[str, Window]]:
    """The windows of one group, with their split."""
    (split, source, bucket), documents = group
    ids = (np.frombuffer(raw, np.int32) for _, raw in sorted(documents))
    for number, tokens in enumerate(pack(ids, window)):
        order = hashlib.sha256(f"{split}\0{source}\0{bucket}\0{number}".encode()).digest()[:7]
        length = int(np.count_nonzero(tokens != PAD_ID))
        yield split, (int.from_bytes(order, "big"), length, _example(tokens, source, length))


def _example(tokens: np.ndarray, source: str, length: int) -> bytes:
    features = {
        "tokens": tf.train.Feature(int64_list=tf.train.Int64List(value=tokens)),
        "source": tf.train.Feature(bytes_list=tf.train.BytesList(value=[source.encode()])),
        "length": tf.train.Feature(int64_list=tf.train.Int64List(value=[length])),
    }
    # Maps are written in any order otherwise, and the same windows should be the same bytes.
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def shard_of(split_window: tuple[str, Window], totals: Mapping[str, int], length: int) -> tuple[OutputShard, Window]:
    """A window (of `length` tokens) with the file that it goes to, by its hash, so that each file holds a mixture of sources."""
    split, window = split_window
    shards = min(MAX_SHARDS, -(-totals[split] // max(SHARD_TOKENS, SHARD_WINDOWS * length)))
    return (split, window[0] * shards >> 56, shards), window


def write_shard(shard: tuple[OutputShard, Iterable[Window]], examples_uri: str) -> Iterator[tuple[str, int]]:
    """Writes one file, ordered by hash, whole or not at all; gives figures about it as (name, number)."""
    (split, number, shards), windows = shard
    folder = os.path.join(examples_uri, f"Split-{split}")
    tf.io.gfile.makedirs(folder)
    # Beside the folder: whatever lies in it counts as data.
    partial = os.path.join(examples_uri, f"partial-{uuid.uuid4().hex}")
    written = tokens = 0
    with tf.io.TFRecordWriter(partial, tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for _, length, example in sorted(windows):
            writer.write(example)
            written += 1
            tokens += length
    tf.io.gfile.rename(partial, os.path.join(folder, f"data_tfrecord-{number:05d}-of-{shards:05d}.gz"), overwrite=True)
    yield f"{split}_windows", written
    yield f"{split}_tokens", tokens
