"""Batches of scored windows for training and evaluation, in an order that a seed fixes."""

from collections.abc import Sequence

import tensorflow as tf

from gemma_tf_distill.data.batch_processor import TPUBatchProcessor
from gemma_tf_distill.data.examples import labels_and_mask, parse_scored, parse_windows
from gemma_tf_distill.errors import CorpusError


def records(files: Sequence[str]) -> tf.data.Dataset:
    """Serialized examples of gzipped TFRecord shards, in the shards' sorted order."""
    return tf.data.TFRecordDataset(sorted(files), compression_type="GZIP")


def split_files(examples_uri: str, split: str) -> list[str]:
    """The shards of a split of an Examples artifact, sorted.

    Raises:
      CorpusError: if there is none.
    """
    files = sorted(tf.io.gfile.glob(f"{examples_uri}/Split-{split}/*"))
    if not files:
        raise CorpusError(f"no examples of the split {split!r} under {examples_uri}")
    return files


def count_split(files: Sequence[str], window: int) -> tuple[int, int]:
    """How many windows the shards hold, and how many of their tokens count as labels."""

    def add(counts: tf.Tensor, serialized: tf.Tensor) -> tf.Tensor:
        tokens = parse_windows(serialized, window)["tokens"]
        _, mask = labels_and_mask(tokens)
        return counts + tf.stack([tf.shape(tokens, tf.int64)[0], tf.cast(tf.reduce_sum(mask), tf.int64)])

    windows, tokens = records(files).batch(256).reduce(tf.zeros([2], tf.int64), add).numpy()
    return int(windows), int(tokens)


def training_batches(files: Sequence[str], *, window: int, top_k: int, batch_size: int, seed: int, skip: int = 0) -> tf.data.Dataset:
    """`TPUBatchProcessor.batches` of windows that `parse_scored` reads, given T and k."""

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        return parse_scored(serialized, window, top_k)

    return TPUBatchProcessor(files, window=window, batch_size=batch_size, seed=seed, parse=parse).batches(skip)


def evaluation_batches(files: Sequence[str], *, window: int, top_k: int, batch_size: int) -> tf.data.Dataset:
    """Every window once, in order; the last batch is filled up with windows of padding, whose tokens do not count."""

    def fill(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        missing = batch_size - tf.shape(batch["tokens"])[0]
        return {
            name: tf.ensure_shape(tf.pad(value, [[0, missing]] + [[0, 0]] * (value.shape.rank - 1)), [batch_size, *value.shape[1:]])
            for name, value in batch.items()
        }

    return records(files).batch(batch_size).map(lambda serialized: parse_scored(serialized, window, top_k)).map(fill).prefetch(2)
