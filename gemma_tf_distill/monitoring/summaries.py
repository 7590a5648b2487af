"""Summaries for TensorBoard, made by TensorBoard's own functions and written in one operation: TensorFlow's take one each."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram import summary_v2 as histograms
from tensorboard.plugins.scalar import summary_v2 as scalars


def write_scalars(values: Mapping[str, float]) -> None:
    """Writes scalars, by their names, to the current summary writer at its step; a value that is no number is one on TensorBoard, too."""
    whole = Summary()
    for name, value in values.items():
        whole.MergeFrom(scalars.scalar_pb(name, value))
    _write(whole)


def write_histogram(name: str, values: np.ndarray, buckets: int) -> None:
    """Writes a histogram of finite values, of any shape, likewise."""
    _write(histograms.histogram_pb(name, values, buckets=buckets))


def _write(summary: Summary) -> None:
    if summary.value:
        tf.summary.experimental.write_raw_pb(summary.SerializeToString())
