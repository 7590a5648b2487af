"""Every process gets its own share of the same batches, in shapes that XLA can compile for."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.data.batch_processor import TPUBatchProcessor, prefetch_to_device
from gemma_tf_distill.data.examples import parse_scored, scored_example
from gemma_tf_distill.errors import ConfigError, CorpusError

WINDOW, TOP_K, SHARDS = 16, 2, 5
# Tokens of each window up to its padding.
LENGTHS = [16, 3, 8, 9, 12, 5, 16, 2, 7, 11, 16, 4, 8, 13, 6, 16, 10, 3, 9, 14, 16, 5, 12]
B = 12


def write(folder, lengths=LENGTHS, shards=SHARDS):
    random = np.random.default_rng(0)
    files = []
    for shard in range(shards):
        files.append(str(folder / f"part-{shard}.gz"))
        with tf.io.TFRecordWriter(files[-1], options="GZIP") as writer:
            for number in range(shard, len(lengths), shards):
                tokens = np.where(np.arange(WINDOW) < lengths[number], 100 + number, 0)
                tokens[0] = 2
                scored = random.integers(0, 99, (WINDOW - 1, TOP_K)), -random.random((WINDOW - 1, TOP_K)), -random.random(WINDOW - 1)
                writer.write(scored_example(tokens, b"x", *scored).SerializeToString())
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write(tmp_path_factory.mktemp("windows"))


def parse(serialized):
    return parse_scored(serialized, WINDOW, TOP_K)


def make(files, **changes):
    return TPUBatchProcessor(files, **({"window": WINDOW, "batch_size": B, "seed": 1, "parse": parse} | changes))


def taken(dataset, count):
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(count)]


def names(batches):
    """The numbers of the windows of each batch."""
    return [batch["tokens"][:, 1].tolist() for batch in batches]


def assert_same(got, want):
    assert len(got) == len(want)
    for mine, other in zip(got, want, strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name])


@pytest.mark.parametrize("buckets", [(), (4, 8)])
@pytest.mark.parametrize(("processes", "replicas"), [(1, 4), (2, 2), (3, 3), (2, 4), (4, 4)])
def test_shares_put_together_are_the_batches_of_one_process(files, processes, replicas, buckets):
    processor, steps, skip = make(files, buckets=buckets), 4, 1
    shares = []
    for process in range(processes):
        context = tf.distribute.InputContext(processes, process, replicas)
        own = replicas // processes
        found = taken(processor.dataset_for(context, skip), own * steps)
        assert all(len(share["tokens"]) == B // replicas for share in found)
        shares.append([found[own * step : own * (step + 1)] for step in range(steps)])
    whole = [
        {
            name: np.concatenate([replica[name] for process in shares for replica in process[step]])
            for name in ("tokens", "teacher_ids", "teacher_log_probs", "teacher_label_log_prob")
        }
        for step in range(steps)
    ]
    assert_same(whole, taken(processor.batches(skip), steps))


STRATEGY = """
import sys
import tensorflow as tf
from tests.data.test_batch_processor import make, taken

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
processor = make(sys.argv[1:])
steps = iter(strategy.distribute_datasets_from_function(processor.dataset_for))
for batch in taken(processor.batches(), 3):
    replicas = strategy.experimental_local_results(next(steps)["tokens"])
    assert [replica.device[-5:] for replica in replicas] == ["CPU:0", "CPU:1"]
    assert (tf.concat(replicas, 0).numpy() == batch["tokens"]).all()
"""


def test_two_replicas_of_a_strategy_get_the_halves_of_a_batch(files):
    done = subprocess.run([sys.executable, "-c", STRATEGY, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_order_follows_from_the_seed_alone(files):
    order = names(taken(make(files).batches(), 6))
    for readers in (1, 2, 16):
        assert names(taken(make(files, readers=readers).batches(), 6)) == order
    assert names(taken(make(files[::-1]).batches(), 6)) == order
    assert names(taken(make(files, seed=2).batches(), 6)) != order
    first = [number for batch in order for number in batch][: len(LENGTHS)]
    assert sorted(first) == [100 + number for number in range(len(LENGTHS))]


@pytest.mark.parametrize("buckets", [(), (4, 8)])
def test_what_is_skipped_is_not_parsed_and_the_rest_goes_on_as_before(files, buckets):
    parsed = []

    def counting(serialized):
        tf.py_function(lambda: parsed.append(1), [], [])
        return parse(serialized)

    whole = taken(make(files, buckets=buckets).batches(), 60)
    assert_same(taken(make(files, buckets=buckets, parse=counting).batches(skip=57), 3), whole[57:])
    # Those asked for, and those fetched ahead.
    assert 3 <= len(parsed) < 30


def test_shapes_are_static(files):
    spec = make(files).dataset_for(tf.distribute.InputContext(2, 0, 2)).element_spec
    assert {name: value.shape.as_list() for name, value in spec.items()} == {
        "tokens": [6, WINDOW],
        "teacher_ids": [6, WINDOW - 1, TOP_K],
        "teacher_log_probs": [6, WINDOW - 1, TOP_K],
        "teacher_label_log_prob": [6, WINDOW - 1],
    }
    with pytest.raises(ValueError, match="parse must give static shapes"):
        make(files, parse=lambda serialized: {"tokens": tf.reshape(tf.io.decode_raw(serialized, tf.uint8), [B, -1])}).batches()


def test_a_bucket_cuts_padding_only_and_is_compiled_once(files):
    @tf.function(jit_compile=True, autograph=False)
    def step(tokens, label_log_prob):
        return tf.reduce_sum(tokens), tf.reduce_sum(label_log_prob)

    seen, lengths = set(), {100 + number: length for number, length in enumerate(LENGTHS)}
    for batch in make(files, buckets=[8, 4], batch_size=3, block=4).batches().take(40):
        tokens = batch["tokens"].numpy()
        length = tokens.shape[1]
        assert batch["teacher_ids"].shape == [3, length - 1, TOP_K]
        assert batch["teacher_label_log_prob"].shape == [3, length - 1]
        for window in tokens:
            assert min(size for size in (4, 8, WINDOW) if size >= lengths[window[1]]) == length
            assert np.count_nonzero(window) == lengths[window[1]]
        seen.add(length)
        assert int(step(batch["tokens"], batch["teacher_label_log_prob"])[0]) == tokens.sum()
    assert seen == {4, 8, WINDOW}
    assert step.experimental_get_tracing_count() == 3


def test_batches_go_ahead_to_a_device_and_stay_where_there_is_none(files):
    batches = make(files).batches()
    assert prefetch_to_device(batches) is batches
    ahead = prefetch_to_device(make(files).batches().take(3), "CPU:0")
    assert_same([{name: value.numpy() for name, value in batch.items()} for batch in ahead], taken(batches, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": 6}, r"a sequence of 16 tokens is no multiple of the block of 6: choose 12 or 18"),
        ({"block": 8, "buckets": [4]}, r"a sequence of 4 tokens is no multiple of the block of 8: choose 8"),
        ({"buckets": [8, 16]}, r"buckets must be lengths from 2 to below the window's 16 tokens, not \[8, 16\]"),
        ({"batch_size": 40}, r"training\.batch_size is 40, but there are 23 windows: choose at most as many"),
    ],
)
def test_what_does_not_fit_is_told(files, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(files, **changes)


def test_replicas_that_cannot_share_a_batch_are_told_what_they_could(files):
    with pytest.raises(ConfigError, match=r"training\.batch_size is 12, which 5 replicas can't share: choose 10 or 15"):
        make(files).dataset_for(tf.distribute.InputContext(1, 0, 5))
    with pytest.raises(ConfigError, match="3 replicas in 2 processes: every process must have as many as the others"):
        make(files).dataset_for(tf.distribute.InputContext(2, 0, 3))


def test_shards_without_windows_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="no windows in 2 shards"):
        make(write(tmp_path, [], shards=2))
    with pytest.raises(CorpusError, match="no windows in 0 shards"):
        make([])
