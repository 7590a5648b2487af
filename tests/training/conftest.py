"""Scored windows of random tokens on disk, and small students to train on them."""

import dataclasses
import pathlib

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.data.examples import scored_example
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.teacher.targets import TargetScorer

WINDOW, TOP_K = 12, 6


@dataclasses.dataclass(frozen=True)
class ScoredWindows:
    """Shards of windows with the tiny teacher's targets."""

    files: list[str]
    tokens: np.ndarray
    window: int = WINDOW
    top_k: int = TOP_K


def write_windows(folder: pathlib.Path, teacher: Gemma, tokens: np.ndarray, shards: int = 2) -> list[str]:
    scored = TargetScorer(teacher, top_k=TOP_K)(tf.constant(tokens, tf.int32))
    files = []
    for shard in range(shards):
        files.append(str(folder / f"scored-{shard:05d}.gz"))
        with tf.io.TFRecordWriter(files[-1], options="GZIP") as writer:
            for i in range(shard, len(tokens), shards):
                example = scored_example(tokens[i], b"here", *(np.asarray(value)[i] for value in scored))
                writer.write(example.SerializeToString())
    return files


@pytest.fixture(scope="session")
def scored_windows(tiny_teacher, tmp_path_factory) -> ScoredWindows:
    random = np.random.default_rng(3)
    tokens = random.integers(4, 300, size=(22, WINDOW))
    tokens[:, 0] = tiny_teacher.tokenizer.bos_id
    tokens[5, 7:] = tiny_teacher.tokenizer.pad_id
    tokens[6, 5:7] = tiny_teacher.tokenizer.eos_id, tiny_teacher.tokenizer.bos_id
    return ScoredWindows(write_windows(tmp_path_factory.mktemp("scored"), tiny_teacher, tokens), tokens)


@pytest.fixture
def make_student(tiny_teacher):
    """Fresh two-layer students; the same seed gives the same weights."""

    def make(seed: int = 0, **changes) -> Gemma:
        config = tiny_teacher.backbone.get_config() | {"num_layers": 2, "name": "student"} | changes
        backbone = keras_hub.models.Gemma3Backbone.from_config(config)
        random = np.random.default_rng(seed)
        for weight in backbone.weights:
            weight.assign(random.normal(scale=0.1, size=weight.shape).astype("float32"))
        return Gemma(backbone, tiny_teacher.tokenizer)

    return make
