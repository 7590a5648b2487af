"""The Exporter component: a student's folder in, a Model artifact out that the Evaluator and the Pusher can read."""

import json

import numpy as np
import pytest
import tensorflow as tf

from components.exporter import export as exporter
from components.exporter.component import Exporter, exporter_config
from gemma_tf_distill.config import StudentConfig, config_from_dict
from gemma_tf_distill.data.examples import target_example
from gemma_tf_distill.export import bundle
from gemma_tf_distill.export.parity.report import ParityError
from gemma_tf_distill.export.samples import sample_completions
from gemma_tf_distill.gemma.student import build_student, trim_teacher
from gemma_tf_distill.gemma.vocabulary import Vocabulary, full_vocabulary, trim_vocabulary

PROMPTS = ["Returns the", "The quick brown fox"]


@pytest.fixture(scope="module")
def teacher(tiny_teacher):
    """Two layers, which are exported and traced sooner than seven."""
    return build_student(StudentConfig(layers=(0, 1)), tiny_teacher, full_vocabulary(tiny_teacher.tokenizer), seed=0)


@pytest.fixture(scope="module")
def student(teacher):
    """One layer and a part of the words."""
    words = teacher.tokenizer.encode("Returns the mean of the values. The quick brown fox jumps.")
    vocabulary = trim_vocabulary(teacher.tokenizer, dict.fromkeys(words, 1))
    assert vocabulary.tokenizer.vocabulary_size < teacher.tokenizer.vocabulary_size
    return build_student(StudentConfig(layers=(0,)), teacher, vocabulary, seed=0)


@pytest.fixture(scope="module")
def folders(teacher, student, tmp_path_factory):
    """The teacher as KerasHub saves it, and the student as Distiller does."""
    root = tmp_path_factory.mktemp("exporter")
    teacher.save(root / "teacher")
    student.save(root / "student" / "student")
    write_windows(root / "examples", student.tokenizer.vocabulary_size)
    return root


def write_windows(folder, vocabulary: int) -> None:
    """Four held-out windows of 16 tokens, as CorpusGen writes them."""
    ids = np.random.default_rng(3).integers(4, vocabulary, size=(4, 16))
    ids[:, 0] = 2
    (folder / "Split-heldout").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "Split-heldout" / "data.gz"), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for window in ids:
            writer.write(target_example(window, b"tests", b"").SerializeToString())


def config(folders, **export):
    return config_from_dict(
        {
            "name": "test",
            "teacher": {"source": str(folders / "teacher")},
            "corpus": {"window": 16},
            "distillation": {"top_k": 4},
            "export": {"context_length": 32, "prefill_lengths": [8], "max_new_tokens": 6, "prompts": PROMPTS, **export},
            "gates": {"max_heldout_nll": 5.0},
        }
    )


@pytest.fixture(scope="module")
def exported(folders):
    exporter.export(str(folders / "student"), str(folders / "examples"), str(folders / "model"), exporter_config(config(folders)))
    return folders / "model"


def test_the_artifact_holds_what_evaluator_and_pusher_read(exported):
    assert {path.name for path in exported.iterdir()} == {"Format-Serving", "files", "export.json"}
    assert {path.name for path in (exported / "files").iterdir()} == {"model.tflite", "model.litertlm", "tokenizer.model"}
    signatures = tf.saved_model.load(str(exported / "Format-Serving")).signatures
    assert {"serving_default", "generate", "eval"} <= set(signatures)
    assert set(signatures["eval"].structured_input_signature[1]) == {"examples"}


def test_the_report_shows_teacher_and_student_side_by_side(exported, teacher, student):
    report = json.loads((exported / "export.json").read_text())
    assert report["formats"] == ["saved_model", "tflite", "litertlm"]
    assert report["seconds"] >= report["export_seconds"] + report["parity_seconds"] - 0.1
    assert report["parity"]["passed"]
    assert [file["format"] for file in report["parity"]["files"]] == report["formats"]
    assert [sample["prompt"] for sample in report["samples"]] == PROMPTS
    assert [sample["student"] for sample in report["samples"]] == sample_completions(student, PROMPTS, 6)
    # The teacher writes with the student's words only, as it scored the corpus.
    kept = [teacher.tokenizer.id_of(student.tokenizer.piece(index)) for index in range(student.tokenizer.vocabulary_size)]
    trimmed = trim_teacher(teacher, Vocabulary(np.array(kept, np.int32), student.tokenizer.proto))
    assert [sample["teacher"] for sample in report["samples"]] == sample_completions(trimmed, PROMPTS, 6)
    assert [sample["teacher"] for sample in report["samples"]] != [sample["student"] for sample in report["samples"]]


def test_the_report_shows_how_alike_the_layers_are(exported, teacher, student):
    similarity = json.loads((exported / "export.json").read_text())["layer_similarity"]
    assert set(similarity) == {"hidden_states", "attention_maps"}
    for matrix in similarity.values():
        assert np.shape(matrix) == (student.backbone.num_layers, teacher.backbone.num_layers)
        assert 0 <= np.min(matrix) <= np.max(matrix) <= 1
    # The student's first layer is the teacher's.
    assert np.argmax(similarity["hidden_states"][0]) == 0


def test_without_tflite_and_prompts_no_teacher_is_needed(folders, tmp_path):
    settings = json.loads(exporter_config(config(folders, formats=["saved_model"], prompts=[])))
    settings["teacher"]["source"] = str(tmp_path / "nowhere")
    exporter.export(str(folders / "student"), str(folders / "examples"), str(tmp_path / "model"), json.dumps(settings))
    assert {path.name for path in (tmp_path / "model" / "files").iterdir()} == {"tokenizer.model"}
    report = json.loads((tmp_path / "model" / "export.json").read_text())
    assert (report["samples"], report["layer_similarity"]) == ([], None)


def test_into_a_bucket_go_files_that_were_run_where_they_can_be(folders):
    # TensorFlow's in-memory file system, with an address such as gs:// has.
    settings = exporter_config(config(folders, formats=["saved_model", "tflite"], prompts=[]))
    exporter.export(str(folders / "student"), str(folders / "examples"), "ram://exported/model", settings)
    assert {"Format-Serving", "export.json", "files"} == {name.rstrip("/") for name in tf.io.gfile.listdir("ram://exported/model")}
    with tf.io.gfile.GFile("ram://exported/model/export.json") as file:
        assert json.loads(file.read())["parity"]["passed"]


def test_a_file_that_disagrees_fails_the_export(folders, tmp_path, monkeypatch):
    real = bundle.export_saved_model

    def with_other_norms(student, path, **options):
        scale = student.backbone.layer_norm.scale
        kept = scale.numpy()
        scale.assign(kept[::-1])
        real(student, path, **options)
        scale.assign(kept)

    monkeypatch.setattr(bundle, "export_saved_model", with_other_norms)
    with pytest.raises(
        ParityError, match=r"Format-Serving does not hold .* final_norm, in .*Format-Serving does not compute what the student computes"
    ):
        exporter.export(str(folders / "student"), str(folders / "examples"), str(tmp_path / "model"), exporter_config(config(folders)))
    assert not (tmp_path / "model" / "export.json").exists()


def test_only_what_the_files_depend_on_is_in_the_components_config(folders):
    base = config(folders)
    changed = config_from_dict(
        json.loads(json.dumps(base.to_dict())) | {"gates": {"max_heldout_nll": 4.0}, "name": "other", "training": {"epochs": 2.0}}
    )
    assert exporter_config(changed) == exporter_config(base)
    assert exporter_config(config(folders, max_new_tokens=7)) != exporter_config(base)
    values = json.loads(exporter_config(base))
    assert (values["window"], values["top_k"], values["teacher"]["source"]) == (16, 4, str(folders / "teacher"))


def test_the_component_has_the_pipelines_channels(folders):
    from tfx import v1 as tfx

    from components.artifacts import Student

    examples = tfx.dsl.Channel(type=tfx.types.standard_artifacts.Examples)
    node = Exporter(student=tfx.dsl.Channel(type=Student), examples=examples, config=exporter_config(config(folders)), source_digest="0")
    assert set(node.outputs) == {"model"}
    assert node.outputs["model"].type is tfx.types.standard_artifacts.Model
