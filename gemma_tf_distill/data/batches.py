"""Batches of scored windows for training and evaluation, in an order that a seed fixes."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from gemma_tf_distill.data.examples import labels_and_mask, parse_scored, parse_windows
from gemma_tf_distill.errors import CorpusError

_SHUFFLE_WINDOWS = 4096


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


Parse = Callable[[tf.Tensor, int, int], dict[str, tf.Tensor]]


def training_batches(
    files: Sequence[str], *, window: int, top_k: int, batch_size: int, seed: int, skip: int = 0, parse: Parse = parse_scored
) -> tf.data.Dataset:
    """Endless full batches, reshuffled every epoch; the same seed gives the same batches.

    Args:
      files: shards of scored windows.
      window: T.
      top_k: k.
      batch_size: windows a batch.
      seed: of the order.
      skip: batches to leave out at the beginning, when training resumes.
      parse: reads serialized examples, given T and k.

    Returns:
      A dataset of what `parse` returns, with a static batch dimension.
    """
    return (
        records(files)
        .shuffle(_SHUFFLE_WINDOWS, seed=seed, reshuffle_each_iteration=True)
        .repeat()
        .skip(skip * batch_size)
        .batch(batch_size, drop_remainder=True)
        .map(lambda serialized: parse(serialized, window, top_k), num_parallel_calls=2, deterministic=True)
        .prefetch(2)
    )


def evaluation_batches(files: Sequence[str], *, window: int, top_k: int, batch_size: int) -> tf.data.Dataset:
    """Every window once, in order; the last batch is filled up with windows of padding, whose tokens do not count."""

    def fill(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        missing = batch_size - tf.shape(batch["tokens"])[0]
        return {
            name: tf.ensure_shape(tf.pad(value, [[0, missing]] + [[0, 0]] * (value.shape.rank - 1)), [batch_size, *value.shape[1:]])
            for name, value in batch.items()
        }

    return records(files).batch(batch_size).map(lambda serialized: parse_scored(serialized, window, top_k)).map(fill).prefetch(2)
