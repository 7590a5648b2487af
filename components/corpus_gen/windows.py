"""Steps of CorpusGen that pack documents into windows and write them."""

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

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

# Split, source, values of the features: what the documents of a window have in common.
Origin = tuple[str, str, tuple[str, ...]]
# Origin, bucket.
Group = tuple[Origin, int]
# Split, number of the file, number of files.
OutputShard = tuple[str, int, int]
# Place in the order of windows (a hash in [0, 2**56)), tokens that are not padding, serialized tf.Example.
Window = tuple[int, int, bytes]


def _origin(item: Item) -> Origin:
    return item.split, item.source, item.features


def origin_tokens(item: Item) -> tuple[Origin, int]:
    """(origin, tokens) of a document, its `<bos>` and `<eos>` included."""
    return _origin(item), len(item.ids) // 4 + 2


def is_large(size: tuple[Origin, int]) -> bool:
    """Whether an origin needs several groups."""
    return size[1] > GROUP_TOKENS


def group_of(item: Item, large: Mapping[Origin, int]) -> tuple[Group, tuple[bytes, bytes]]:
    """((origin, bucket), (digest, ids)): documents are packed with others of their origin, in buckets where it is large."""
    origin = _origin(item)
    buckets = -(-large.get(origin, 1) // GROUP_TOKENS)
    return (origin, packing_bucket(item.digest, buckets)), (item.digest, item.ids)


def pack_group(
    group: tuple[Group, Iterable[tuple[bytes, bytes]]], window: int, features: Sequence[str] = ()
) -> Iterator[tuple[str, Window]]:
    """The windows of one group, with their split; `features` are the names of the values in its origin."""
    ((split, source, values), bucket), documents = group
    labels = {"source": source, **dict(zip(features, values, strict=True))}
    ids = (np.frombuffer(raw, np.int32) for _, raw in sorted(documents))
    for number, tokens in enumerate(pack(ids, window)):
        place = "\0".join((split, source, str(bucket), str(number), *values))
        order = hashlib.sha256(place.encode()).digest()[:7]
        length = int(np.count_nonzero(tokens != PAD_ID))
        yield split, (int.from_bytes(order, "big"), length, _example(tokens, labels, length))


def _example(tokens: np.ndarray, labels: Mapping[str, str], length: int) -> bytes:
    features = {
        **{name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()])) for name, value in labels.items()},
        "tokens": tf.train.Feature(int64_list=tf.train.Int64List(value=tokens)),
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
