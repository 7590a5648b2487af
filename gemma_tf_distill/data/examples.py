"""The tf.Example layouts of token windows and of windows with the teacher's targets.

A window of T tokens holds N = T - 1 predictions: position i predicts token i + 1. A label counts unless it is padding or `<bos>`.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from gemma_tf_distill.config import length_bucket
from gemma_tf_distill.data.packing import BOS_ID, PAD_ID


def scored_example(
    tokens: np.ndarray,
    source: bytes,
    teacher_ids: np.ndarray,
    teacher_log_probs: np.ndarray,
    teacher_label_log_prob: np.ndarray,
    features: Iterable[tuple[str, bytes]] = (),
) -> tf.train.Example:
    """A window with the teacher's targets, and its `length` in a bucket (`config.length_bucket`), by which metrics can be sliced.

    Args:
      tokens: int [T], student ids.
      source: where the window's documents come from, UTF-8.
      teacher_ids: int [N, k], the teacher's most probable words, best first, as student ids.
      teacher_log_probs: float [N, k], their log-probabilities in nats; stored as float16.
      teacher_label_log_prob: float [N], the log-probability in nats that the teacher gives the label.
      features: names and values, UTF-8, of `corpus.features`.
    """

    def text(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def raw(array: np.ndarray, dtype: str) -> tf.train.Feature:
        return text(np.ascontiguousarray(array, dtype=dtype).tobytes())

    length = int(np.count_nonzero(np.asarray(tokens) != PAD_ID))
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "tokens": tf.train.Feature(int64_list=tf.train.Int64List(value=tokens)),
                **{name: text(value) for name, value in features},
                "source": text(source),
                "length": text(length_bucket(length).encode()),
                "teacher_ids": raw(teacher_ids, "<i4"),
                "teacher_log_probs": raw(teacher_log_probs, "<f2"),
                "teacher_label_log_prob": tf.train.Feature(float_list=tf.train.FloatList(value=teacher_label_log_prob)),
            }
        )
    )


def target_example(tokens: np.ndarray, source: bytes, targets: bytes) -> tf.train.Example:
    """A window of the training split with its compressed targets.

    Args:
      tokens: int [T], student ids.
      source: where the window's documents come from, UTF-8.
      targets: of `teacher.codec`; empty where none are stored.
    """
    feature = {
        "tokens": tf.train.Feature(int64_list=tf.train.Int64List(value=tokens)),
        "source": tf.train.Feature(bytes_list=tf.train.BytesList(value=[source])),
        "targets": tf.train.Feature(bytes_list=tf.train.BytesList(value=[targets])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))


def parse_targets(serialized: tf.Tensor, window: int) -> dict[str, tf.Tensor]:
    """Reads `target_example`s: string [B] to `tokens` int32 [B, T] and `targets` string [B], still compressed."""
    features = {"tokens": tf.io.FixedLenFeature([window], tf.int64), "targets": tf.io.FixedLenFeature([], tf.string)}
    parsed = tf.io.parse_example(serialized, features)
    return {"tokens": tf.cast(parsed["tokens"], tf.int32), "targets": parsed["targets"]}


def parse_windows(serialized: tf.Tensor, window: int, features: Iterable[str] = ()) -> dict[str, tf.Tensor]:
    """Reads serialized windows: string [B] to `tokens` int32 [B, T], and `source` and each of `features` string [B]."""
    texts = {name: tf.io.FixedLenFeature([], tf.string) for name in ("source", *features)}
    parsed = tf.io.parse_example(serialized, {"tokens": tf.io.FixedLenFeature([window], tf.int64), **texts})
    return {**parsed, "tokens": tf.cast(parsed["tokens"], tf.int32)}


def window_lengths(serialized: tf.Tensor, window: int) -> tf.Tensor:
    """Tokens up to the padding of serialized windows, of any layout: string [B] to int32 [B]."""
    return text_lengths(tf.io.parse_example(serialized, {"tokens": tf.io.FixedLenFeature([window], tf.int64)})["tokens"])


def text_lengths(tokens: tf.Tensor) -> tf.Tensor:
    """Tokens up to the last that is no padding: int [B, T] to int32 [B]."""
    places = tf.range(1, tokens.shape[1] + 1)
    return tf.reduce_max(tf.where(tokens != PAD_ID, places, 0), axis=1)


def parse_scored(serialized: tf.Tensor, window: int, top_k: int) -> dict[str, tf.Tensor]:
    """Reads serialized windows with targets.

    Args:
      serialized: string [B].
      window: T.
      top_k: k.

    Returns:
      `tokens` int32 [B, T]; `teacher_ids` int32 [B, N, k]; `teacher_log_probs` float32 [B, N, k]; `teacher_label_log_prob`
      float32 [B, N].
    """
    predictions = window - 1
    parsed = tf.io.parse_example(
        serialized,
        {
            "tokens": tf.io.FixedLenFeature([window], tf.int64),
            "teacher_ids": tf.io.FixedLenFeature([], tf.string),
            "teacher_log_probs": tf.io.FixedLenFeature([], tf.string),
            "teacher_label_log_prob": tf.io.FixedLenFeature([predictions], tf.float32),
        },
    )
    shape = [-1, predictions, top_k]
    return {
        "tokens": tf.cast(parsed["tokens"], tf.int32),
        "teacher_ids": tf.reshape(tf.io.decode_raw(parsed["teacher_ids"], tf.int32), shape),
        "teacher_log_probs": tf.cast(tf.reshape(tf.io.decode_raw(parsed["teacher_log_probs"], tf.float16), shape), tf.float32),
        "teacher_label_log_prob": parsed["teacher_label_log_prob"],
    }


def labels_and_mask(tokens: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The labels of windows and which of them count: int [B, T] to int [B, N] and float32 [B, N]."""
    labels = tokens[:, 1:]
    return labels, tf.cast(tf.logical_and(labels != PAD_ID, labels != BOS_ID), tf.float32)


def model_inputs(tokens: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """What the backbone reads of windows int32 [B, T]: the N tokens that have a label after them, and their padding mask."""
    inputs = tokens[:, :-1]
    return {"token_ids": inputs, "padding_mask": tf.cast(inputs != PAD_ID, tf.int32)}
