"""A student is distilled, trained for its integers and written, by the components' functions: on folders, without a pipeline."""

import json

import numpy as np
import pytest
import tensorflow as tf

from components.distiller.distil import distil
from components.distiller.settings import distiller_config
from components.exporter.component import exporter_config
from components.exporter.export import export
from components.quantizer.component import quantizer_config
from components.quantizer.quantize import quantize
from components.teacher_scorer.address import target_address, whole_address
from gemma_tf_distill.config import QuantizationConfig, config_from_dict
from gemma_tf_distill.data.examples import scored_example, target_example
from gemma_tf_distill.export.litert_quantization import stored_weights
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.gemma.model import Gemma
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
            "quantization": {"scheme": "int4_block32", "epochs": 2.0, "learning_rate": 1e-3, "targets": "student"},
            "export": {"context_length": 32, "prefill_lengths": [8], "max_new_tokens": 6, "prompts": []},
            **sections,
        }
    )


@pytest.fixture(scope="module")
def root(make_gemma, tmp_path_factory):
    """A teacher of one layer, its vocabulary, and 16 windows that it scored, 4 of them held out."""
    root = tmp_path_factory.mktemp("distiller")
    teacher, random = make_gemma(num_layers=1), np.random.default_rng(0)
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


@pytest.fixture(scope="module")
def distilled(root):
    """The Distiller's artifact."""
    folder = root / "distilled" / "student" / "1"
    distil(
        examples_uri=str(root / "examples"),
        tokenizer_uri=str(root / "tokenizer"),
        student_uri=str(folder),
        tensorboard_uri=str(root / "distilled" / "model_run" / "1"),
        config=distiller_config(settings(root), "corpus", "teacher"),
        source_digest="0",
    )
    return folder


def quantized(root, distilled, config, name):
    folder = root / name / "quantized_student" / "1"
    quantize(
        student_uri=str(distilled),
        examples_uri=str(root / "examples"),
        tokenizer_uri=str(root / "tokenizer"),
        quantized_uri=str(folder),
        tensorboard_uri=str(root / name / "model_run" / "1"),
        config=quantizer_config(config, "corpus", "teacher"),
        source_digest="0",
    )
    return folder, json.loads((folder / "metrics.json").read_text())


def test_a_quantised_student_leaves_the_pipeline_as_integers(root, distilled):
    folder, metrics = quantized(root, distilled, settings(root), "blocks")
    in_float = json.loads((distilled / "metrics.json").read_text())
    assert metrics["quantization"] == {"scheme": "int4_block32", "overrides": {}}
    # All of them are nats a token on the same text; this student began as its teacher, so that rounding harms it.
    assert metrics["heldout_nll_float"] == in_float["heldout_nll"] == pytest.approx(metrics["heldout_nll_initial"], abs=0.01)
    assert metrics["heldout_nll_ptq"] != metrics["heldout_nll_float"]
    assert metrics["heldout_nll"] != metrics["heldout_nll_ptq"]
    # Uniform rounding of normal weights to 15 numbers a block.
    assert len(metrics["quantization_error"]) == 8
    assert all(0.02 < error < 0.2 for error in metrics["quantization_error"].values())
    assert (root / "blocks" / "model_run" / "1" / "quantized").is_dir()
    assert not list((root / "blocks" / "quantized_student").glob("checkpoints/*"))

    student, config = Gemma.load(folder / "student"), QuantizationConfig(scheme="int4_block32")
    weights, rounded = weights_of(student), weights_of(fake_quantized(student, config))
    for name, value in weights.items():
        np.testing.assert_array_equal(value, rounded[name], err_msg=name)

    export(str(folder), str(root / "examples"), str(root / "model"), exporter_config(settings(root)))
    report = json.loads((root / "model" / "export.json").read_text())
    assert report["quantization"] == {"scheme": "int4_block32", "overrides": {}}
    content = (root / "model" / "files" / "model.tflite").read_bytes()
    stored = dict(stored_weights(content))
    assert {name: value.codes.dtype for name, value in stored.items()} == dict.fromkeys(stored, np.int8)
    codes, scales = stored["embedding"]
    np.testing.assert_array_equal((codes * scales).reshape(codes.shape), weights["embedding"])


def test_no_epochs_are_plain_rounding(root, distilled):
    config = settings(root, quantization={"scheme": "int8_channel", "epochs": 0})
    folder, metrics = quantized(root, distilled, config, "rounded")
    assert metrics["heldout_nll"] == metrics["heldout_nll_ptq"]
    expected = weights_of(fake_quantized(Gemma.load(distilled / "student"), config.quantization))
    for name, value in weights_of(Gemma.load(folder / "student")).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_the_teachers_probabilities_may_be_the_targets(root, distilled):
    config = settings(root, quantization={"scheme": "int4_block32", "targets": "teacher", "epochs": 1.0, "learning_rate": 1e-3})
    _, metrics = quantized(root, distilled, config, "teacher")
    assert np.isfinite(metrics["heldout_nll"])
    assert metrics["heldout_nll"] != metrics["heldout_nll_ptq"]


def test_the_scheme_is_in_no_config_of_the_distiller(root):
    base, other = settings(root), settings(root, quantization={"scheme": "int8_channel"})
    assert distiller_config(base, "corpus", "teacher") == distiller_config(other, "corpus", "teacher")
    assert quantizer_config(base, "corpus", "teacher") != quantizer_config(other, "corpus", "teacher")
    assert exporter_config(base) != exporter_config(other)
    # How it was trained for them is nothing to the files.
    assert exporter_config(base) == exporter_config(settings(root, quantization={"scheme": "int4_block32", "epochs": 3.0}))
