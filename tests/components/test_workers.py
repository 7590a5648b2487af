"""`gemma-distill workers`: two real processes over loopback train what one process trains, and only the chief writes."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import yaml

from components.distiller.workers import train_on_folders
from components.teacher_scorer.address import target_address, whole_address
from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.data.examples import scored_example, target_example
from gemma_tf_distill.errors import ConfigError, TargetsError
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.vocabulary import full_vocabulary
from gemma_tf_distill.teacher.target_store import write_index
from gemma_tf_distill.teacher.targets import TargetScorer

WINDOW, TOP_K = 12, 4


def values(root, *, training=None, **sections) -> dict:
    """A live teacher, its hidden states, and dropouts."""
    return {
        "name": "test",
        "teacher": {"source": str(root / "teacher")},
        "corpus": {"window": WINDOW},
        "student": {"layers": [0]},
        "distillation": {"targets": "dense", "top_k": TOP_K, "hidden_states": {"weight": 0.1, "mapping": "last", "dropout_rate": 0.2}},
        "training": {"batch_size": 4, "learning_rate": 1e-3, "layer_dropout": 0.5, "control": False, **(training or {})},
        # Compiling would be most of the time; tests/training/test_strategies.py compiles.
        "xla": {"jit_scope": "none"},
        **sections,
    }


@pytest.fixture(scope="module")
def root(make_gemma, tmp_path_factory):
    """A teacher of one layer, its vocabulary, and 16 windows that it scored, 4 of them held out."""
    root = tmp_path_factory.mktemp("workers")
    teacher, random = make_gemma(num_layers=1), np.random.default_rng(0)
    teacher.save(root / "teacher")
    vocabulary = full_vocabulary(teacher.tokenizer)
    vocabulary.save(root / "tokenizer")
    tokens = random.integers(4, 300, size=(16, WINDOW))
    tokens[:, 0] = teacher.tokenizer.bos_id
    tokens[::3, 4:] = teacher.tokenizer.pad_id
    scored = [np.asarray(value) for value in TargetScorer(teacher, top_k=TOP_K)(tf.constant(tokens[:4], tf.int32))]
    examples = {
        "heldout": [scored_example(tokens[i], b"here", *(value[i] for value in scored)) for i in range(4)],
        "train": [target_example(row, b"here", b"") for row in tokens[4:]],
    }
    for split, rows in examples.items():
        (root / "examples" / f"Split-{split}").mkdir(parents=True)
        with tf.io.TFRecordWriter(str(root / "examples" / f"Split-{split}" / "scored-0.gz"), options="GZIP") as writer:
            for example in rows:
                writer.write(example.SerializeToString())
    address = target_address(config_from_dict(values(root)), "a corpus elsewhere", "a teacher elsewhere")
    write_index(str(root / "examples"), whole_address(address, vocabulary), WINDOW)
    return root


def folders(root, output) -> list[str]:
    return ["--examples", str(root / "examples"), "--tokenizer", str(root / "tokenizer"), "--output", str(output)]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.slow
def test_two_processes_train_the_student_of_one(root, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values(root, strategy={"name": "multi_worker"})))
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gemma_tf_distill.cli",
                "workers",
                "config.yaml",
                *folders(root, tmp_path / f"out{index}"),
                "--log",
                "json",
            ],
            cwd=tmp_path,
            env={**os.environ, "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    lines = [json.loads(line) for line in said[0][0].splitlines()]
    assert [line["done"] for line in lines if line.get("task") == "student"] == [4 * WINDOW, 12 * WINDOW]
    assert [line["metrics"]["tokens"] for line in lines if line["event"] == "trained"] == [{"train": 100, "heldout": 28}]
    assert "compiling the training step" in [line["message"] for line in lines]
    # The one that is not the chief says what it does, too, and nothing of what is the chief's.
    beside = [json.loads(line) for line in said[1][0].splitlines()]
    assert {line["event"] for line in beside} == {"stage", "activity", "note", "progress"}
    assert {line["task"] for line in beside if line["event"] == "progress"} == {"held-out text"}
    # The worker that is not the chief has a folder of its own here, to see that it leaves nothing in it.
    assert not (tmp_path / "out1").exists()
    assert {path.name for path in (tmp_path / "out0").iterdir()} == {"student", "metrics.json", "tensorboard"}

    # The devices of the two are the parts of one.
    alone = config_from_dict(values(root, training={"accumulation_steps": 2}))
    metrics = train_on_folders(alone, str(root / "examples"), str(root / "tokenizer"), str(tmp_path / "alone"))
    trained, expected, before = (
        Gemma.load(path).backbone.get_weights()
        for path in (tmp_path / "out0" / "student", tmp_path / "alone" / "student", root / "teacher")
    )
    for got, want in zip(trained, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert max(np.abs(want - value).max() for want, value in zip(expected, before, strict=True)) > 1e-3
    told = json.loads((tmp_path / "out0" / "metrics.json").read_text())
    assert told.pop("tokens") == metrics.pop("tokens") == {"train": 100, "heldout": 28}
    for name in ("heldout_nll_control", "gap_closed"):
        assert told.pop(name) is metrics.pop(name) is None
    assert told == pytest.approx(metrics, rel=1e-4, abs=1e-6)


def test_targets_of_another_kind_are_refused(root, tmp_path):
    config = config_from_dict({**values(root), "distillation": {"targets": "top_k", "top_k": TOP_K}})
    with pytest.raises(TargetsError, match="kind is dense and not top_k"):
        train_on_folders(config, str(root / "examples"), str(root / "tokenizer"), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "TF_CONFIG is not set"),
        ("{", "names no cluster and task"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "no chief or worker of its cluster"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "no chief or worker of its cluster"),
    ],
)
def test_a_cluster_that_is_none_is_told(root, tmp_path, monkeypatch, text, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    config = config_from_dict(values(root, strategy={"name": "multi_worker"}))
    with pytest.raises(ConfigError, match=message):
        train_on_folders(config, str(root / "examples"), str(root / "tokenizer"), str(tmp_path / "out"))
