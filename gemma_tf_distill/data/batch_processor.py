"""Batches for training: static shapes, an order that a seed fixes, and for each process its own share of every batch."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from gemma_tf_distill.config.checking import nearest_multiples
from gemma_tf_distill.data.examples import text_lengths, window_lengths
from gemma_tf_distill.errors import ConfigError, CorpusError

# Both are part of the order of windows, which the number of readers is not: so many shards are open at once, and each gives so many
# windows in turn.
_OPEN_SHARDS, _IN_TURN = 8, 16
_SHUFFLE_WINDOWS = 4096

Parse = Callable[[tf.Tensor], dict[str, tf.Tensor]]


class TPUBatchProcessor:
    """Endless full batches of windows, reshuffled every epoch; the same seed gives the same batches, on however many processes.

    (TensorFlow's global seed has to be the same in all of them, as it counts too.) Every process reads all shards, since which windows
    a batch takes follows from the order of all of them, and parses only its own share. What `skip` leaves out is read and shuffled,
    but not parsed.

    CorpusGen packs documents until windows are full, so that all batches have one shape, and XLA compiles once. Windows that are mostly
    padding, of another source, can be cut: with `buckets` a batch holds windows of about one length, and has one of
    `len(buckets) + 1` shapes. Batches then come as their buckets fill up, so that an epoch's last windows may come later.
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        window: int,
        batch_size: int,
        seed: int,
        parse: Parse,
        buckets: Sequence[int] = (),
        block: int = 1,
        readers: int | None = None,
    ):
        """Args:
          files: gzipped TFRecord shards of windows.
          window: T.
          batch_size: windows of a global batch, B.
          seed: of the order.
          parse: reads serialized examples, string [rows], to tensors [rows, …] with a `tokens` int32 [rows, T]. Where there are buckets,
            tensors [rows, T, …] are cut to a bucket's length, and [rows, T - 1, …] to its predictions.
          buckets: lengths below T, to the least of which windows are cut that their tokens (all but padding at the end) fit.
          block: what T and all buckets must be multiples of, such as the 128 lanes of a TPU.
          readers: shards that are decompressed at the same time; none: as many as help.

        Raises:
          ConfigError: if a length is no multiple of the block or a bucket not below T, or there are fewer windows than a batch takes.
          CorpusError: if there are no windows.
        """
        for length in (window, *buckets):
            if length % block:
                raise ConfigError(
                    f"a sequence of {length} tokens is no multiple of the block of {block}: choose {nearest_multiples(length, block)}"
                )
        if not all(2 <= length < window for length in buckets):
            raise ConfigError(f"buckets must be lengths from 2 to below the window's {window} tokens, not {list(buckets)}")
        self._files = sorted(files)
        self._readers = readers
        self._batch_size = batch_size
        self._seed = seed
        self._window = window
        self._parse = parse
        self._lengths = sorted({*buckets, window})
        found = sum(1 for _ in self._windows().take(batch_size)) if self._files else 0
        if not found:
            raise CorpusError(f"no windows in {len(self._files)} shards: there is nothing to learn from")
        if found < batch_size:
            raise ConfigError(f"training.batch_size is {batch_size}, but there are {found} windows: choose at most as many")

    def batches(self, skip: int = 0) -> tf.data.Dataset:
        """Whole batches, for one process and one device.

        Args:
          skip: batches to leave out at the beginning, when training resumes.

        Returns:
          A dataset of what `parse` returns, [B, …] each, with static shapes (with buckets each batch's own). Iterated once more, it goes
            on with another epoch's order.
        """
        return self.dataset_for(tf.distribute.InputContext(), skip)

    def dataset_for(self, context: tf.distribute.InputContext, skip: int = 0) -> tf.data.Dataset:
        """What one process feeds to its replicas, for `strategy.distribute_datasets_from_function`.

        Each replica's rows follow those of the replica before it, so that a step of all replicas sees one batch of `batches`, in order.

        Args:
          context: which of how many processes this is, and how many replicas they have in all.
          skip: global batches to leave out at the beginning.

        Returns:
          A dataset of what `parse` returns, [B / replicas, …] each, for one replica of this process after the other.

        Raises:
          ConfigError: if the replicas can't share a batch.
        """
        replicas, processes = context.num_replicas_in_sync, context.num_input_pipelines
        if self._batch_size % replicas:
            raise ConfigError(
                f"training.batch_size is {self._batch_size}, which {replicas} replicas can't share: "
                f"choose {nearest_multiples(self._batch_size, replicas)}"
            )
        if replicas % processes:
            raise ConfigError(f"{replicas} replicas in {processes} processes: every process must have as many as the others")
        rows, own = self._batch_size // replicas, replicas // processes
        first = context.input_pipeline_id * own * rows
        options = tf.data.Options()
        options.deterministic = True
        # Shares are taken here; by default a strategy would divide the files among processes.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return (
            self._serialized(skip)
            .map(lambda batch: tf.reshape(batch[first : first + own * rows], [own, rows]))
            .unbatch()
            .map(self.process_batch, num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(2)
            .with_options(options)
        )

    def process_batch(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        """Parses windows of one bucket and cuts them to its length.

        Args:
          serialized: string [rows], rows being static.

        Returns:
          What `parse` returns, with static shapes; with buckets [rows, length or length - 1, …].

        Raises:
          ValueError: if `parse` leaves a dimension open.
        """
        rows = serialized.shape[0]
        parsed = {name: tf.ensure_shape(value, [rows, *value.shape[1:]]) for name, value in self._parse(serialized).items()}
        unknown = {name: value.shape for name, value in parsed.items() if not value.shape.is_fully_defined()}
        if unknown:
            raise ValueError(f"parse must give static shapes, which XLA compiles for, not {unknown}")
        if len(self._lengths) == 1:
            return parsed
        longest = tf.reduce_max(text_lengths(parsed["tokens"]))
        length = tf.gather(self._lengths, tf.searchsorted(self._lengths, [longest])[0])
        return {name: self._cut(value, length) for name, value in parsed.items()}

    def _cut(self, value: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        if value.shape.rank < 2 or value.shape[1] not in (self._window, self._window - 1):
            return value
        return value[:, : length - (self._window - value.shape[1])]

    def _windows(self) -> tf.data.Dataset:
        """Serialized examples of all shards, once, in an order that does not depend on the number of readers."""
        opened = min(_OPEN_SHARDS, len(self._files))
        return tf.data.Dataset.from_tensor_slices(self._files).interleave(
            lambda file: tf.data.TFRecordDataset(file, compression_type="GZIP"),
            cycle_length=opened,
            block_length=_IN_TURN,
            num_parallel_calls=tf.data.AUTOTUNE if self._readers is None else min(self._readers, opened),
            deterministic=True,
        )

    def _serialized(self, skip: int) -> tf.data.Dataset:
        """Global batches, string [B]."""
        windows = self._windows().shuffle(_SHUFFLE_WINDOWS, seed=self._seed, reshuffle_each_iteration=True).repeat()
        if len(self._lengths) == 1:
            return windows.skip(skip * self._batch_size).batch(self._batch_size, drop_remainder=True)
        return windows.bucket_by_sequence_length(
            lambda example: window_lengths(example[None], self._window)[0],
            bucket_boundaries=[length + 1 for length in self._lengths[:-1]],
            bucket_batch_sizes=[self._batch_size] * len(self._lengths),
            drop_remainder=True,
        ).skip(skip)


def prefetch_to_device(batches: tf.data.Dataset, device: str | None = None) -> tf.data.Dataset:
    """Copies the next batches to the accelerator while a step works on the ones before; the last thing to do to a dataset.

    Datasets of a strategy are prefetched by the strategy.

    Args:
      batches: of numbers.
      device: such as `GPU:0`; none: the first GPU. Where there is none, batches stay on the CPU.
    """
    accelerators = [found.name.removeprefix("/device:") for found in tf.config.list_logical_devices("GPU")]
    device = device or (accelerators[0] if accelerators else None)
    return batches if device is None else batches.apply(tf.data.experimental.prefetch_to_device(device, buffer_size=2))
