"""The Distiller's function trains a student for its integers, and the Exporter's writes them: on folders, without a pipeline."""

import json

import numpy as np
import pytest
import tensorflow as tf

from components.distiller import distil as distiller
from components.distiller.component import distiller_config
from components.exporter.component import exporter_config
from components.exporter.export import export
from components.teacher_scorer.address import target_address, whole_address
from gemma_tf_distill.config import QuantizationConfig, StudentConfig, StudentSizes, config_from_dict
from gemma_tf_distill.data.examples import scored_example, target_example
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.export.litert_quantization import stored_weights
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.student import build_student
from gemma_tf_distill.gemma.vocabulary import full_vocabulary
from gemma_tf_distill.quantization.apply import fake_quantized
from gemma_tf_distill.teacher.target_store import write_index
from gemma_tf_distill.teacher.targets import TargetScorer

WINDOW, TOP_K = 12, 4


def settings(root, **sections):
    return config_from_dict(
        {
            "name": "test",
            "teacher": {"source": str(root / "teacher")},
            "corpus": {"window": WINDOW},
            "student": {"layers": [0]},
            "distillation": {"targets": "dense", "alpha": 1.0, "top_k": TOP_K},
            "training": {"batch_size": 4, "epochs": 1.0, "learning_rate": 1e-4, "control": False},
            "quantization": {"scheme": "int4_block32", "epochs": 2.0, "learning_rate": 1e-3},
            "export": {"context_length": 32, "prefill_lengths": [8], "max_new_tokens": 6, "prompts": []},
            **sections,
        }
    )


@pytest.fixture(scope="module")
def root(tiny_teacher, tmp_path_factory):
    """A teacher of one layer, its vocabulary, and 16 windows that it scored, 4 of them held out."""
    root = tmp_path_factory.mktemp("distiller")
    sizes = StudentSizes(num_layers=1, hidden_dim=32, intermediate_dim=64, num_query_heads=4, num_key_value_heads=2, head_dim=8)
    teacher = build_student(StudentConfig(sizes=sizes), tiny_teacher, full_vocabulary(tiny_teacher.tokenizer), seed=0)
    random = np.random.default_rng(0)
    for weight in teacher.backbone.weights:
        weight.assign(random.normal(scale=0.2, size=weight.shape).astype("float32"))
    teacher.save(root / "teacher")
    vocabulary = full_vocabulary(teacher.tokenizer)
    vocabulary.save(root / "tokenizer")

    tokens = random.integers(4, 300, size=(16, WINDOW))
    tokens[:, 0] = teacher.tokenizer.bos_id
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
    write_index(str(root / "examples"), whole_address(target_address(settings(root), "corpus", "teacher"), vocabulary), WINDOW)
    return root


def distil(root, config, name):
    folder = root / name / "student" / "1"
    distiller.distil(
        examples_uri=str(root / "examples"),
        tokenizer_uri=str(root / "tokenizer"),
        student_uri=str(folder),
        tensorboard_uri=str(root / name / "model_run" / "1"),
        config=distiller_config(config, "corpus", "teacher"),
        source_digest="0",
    )
    return folder, json.loads((folder / "metrics.json").read_text())


def test_a_quantised_student_leaves_the_pipeline_as_integers(root):
    folder, metrics = distil(root, settings(root), "quantised")
    assert metrics["quantization"] == {"scheme": "int4_block32", "overrides": {}}
    # All of them are nats a token on the same text; this student began as its teacher, so that rounding harms it.
    assert metrics["heldout_nll_float"] == pytest.approx(metrics["heldout_nll_initial"], abs=0.01)
    assert metrics["heldout_nll_ptq"] != metrics["heldout_nll_float"]
    assert metrics["heldout_nll"] != metrics["heldout_nll_ptq"]
    assert (root / "quantised" / "model_run" / "1" / "quantized").is_dir()
    assert not (root / "quantised" / "student" / "checkpoints").exists() or not any(
        (root / "quantised" / "student" / "checkpoints").iterdir()
    )

    student, config = Gemma.load(folder / "student"), QuantizationConfig(scheme="int4_block32")
    weights, rounded = weights_of(student), weights_of(fake_quantized(student, config))
    for name, value in weights.items():
        np.testing.assert_array_equal(value, rounded[name], err_msg=name)

    export(str(folder), str(root / "model"), exporter_config(settings(root)))
    report = json.loads((root / "model" / "export.json").read_text())
    assert report["quantization"] == {"scheme": "int4_block32", "overrides": {}}
    content = (root / "model" / "files" / "model.tflite").read_bytes()
    stored = dict(stored_weights(content))
    assert {name: value.codes.dtype for name, value in stored.items()} == dict.fromkeys(stored, np.int8)
    codes, scales = stored["embedding"]
    np.testing.assert_array_equal((codes * scales).reshape(codes.shape), weights["embedding"])


def test_without_a_scheme_the_student_stays_in_float(root, monkeypatch):
    monkeypatch.setattr(distiller, "fit_quantized", lambda *_, **__: pytest.fail("trained for integers"))
    _, metrics = distil(root, settings(root, quantization={}), "float")
    assert {metrics[name] for name in ("quantization", "heldout_nll_float", "heldout_nll_ptq")} == {None}


def test_what_does_not_fit_is_told_before_training(root, monkeypatch):
    monkeypatch.setattr(distiller, "fit", lambda *_, **__: pytest.fail("began to train"))
    with pytest.raises(ConfigError, match=r"int4_block128 cuts the inputs of embedding into blocks of 128, but there are 32"):
        distil(root, settings(root, quantization={"scheme": "int4_block128"}), "blocks")
    with pytest.raises(ConfigError, match=r"quantization\.overrides names 'layers\.7\.\*', which no weight matches"):
        distil(root, settings(root, quantization={"scheme": "int8_channel", "overrides": {"layers.7.*": "float"}}), "pattern")


def test_the_scheme_is_in_both_components_configs(root):
    base, other = settings(root), settings(root, quantization={"scheme": "int8_channel"})
    assert distiller_config(base, "corpus", "teacher") != distiller_config(other, "corpus", "teacher")
    assert exporter_config(base) != exporter_config(other)
    # How it was trained for them is nothing to the files.
    assert exporter_config(base) == exporter_config(settings(root, quantization={"scheme": "int4_block32", "epochs": 3.0}))
