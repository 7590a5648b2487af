"""The windows that activations are measured on."""

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.data.examples import scored_example
from gemma_tf_distill.data.first_windows import first_windows

WINDOW, PREDICTIONS = 4, 3


@pytest.fixture
def shards(tmp_path):
    """Two shards of scored windows; window i holds the numbers from 4 * i on."""
    files = [str(tmp_path / f"scored-{shard}.gz") for shard in range(2)]
    for shard, file in enumerate(files):
        with tf.io.TFRecordWriter(file, options="GZIP") as writer:
            for i in range(3 * shard, 3 * shard + 3):
                tokens = np.arange(WINDOW * i, WINDOW * (i + 1))
                scores = np.zeros([PREDICTIONS, 2])
                writer.write(scored_example(tokens, b"here", scores, scores, np.zeros(PREDICTIONS)).SerializeToString())
    return files


@pytest.mark.parametrize(("tokens", "windows"), [(1, 1), (8, 2), (9, 3), (16, 4), (1000, 6)])
def test_the_first_windows_in_order_up_to_the_tokens_that_are_wanted(shards, tokens, windows):
    found = first_windows(shards[::-1], WINDOW, tokens)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.arange(WINDOW * windows).reshape(windows, WINDOW))


def test_an_empty_shard_gives_none(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "empty.gz"), options="GZIP"):
        pass
    assert first_windows([str(tmp_path / "empty.gz")], WINDOW, 100).shape == (0, WINDOW)
