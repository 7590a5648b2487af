"""The Pusher's executor on artifacts written here, its files read back."""

import hashlib
import json
import os
import pathlib
import time

import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.pusher import executor as pusher_executor
from components.pusher import manifest
from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.export import manifest as library_manifest

CONFIG = config_from_dict({"name": "test", "teacher": {"source": "gguf:package"}})
METRICS = {"heldout_nll": 3.25, "tokens": 1234.0}
TRAINING = {
    "heldout_nll_control": 3.9,
    "heldout_nll_initial": 15.6,
    "tokens": {"train": 9_000, "heldout": 1_234},
    "vocabulary": 777,
    "layers": 4,
    "parameters": 55_000,
}
PARITY = {"weights_equal_fraction": 1.0, "passed": True, "files": [{"format": "tflite", "top1_agreement": 0.9987, "nll": 3.25}]}


@pytest.fixture(autouse=True)
def evaluation(monkeypatch):
    # tests/components/test_quality_gate.py reads real evaluations; here only their place in the manifest matters.
    monkeypatch.setattr(manifest, "read_metrics", lambda uri: {"overall": METRICS, "source=numpy": {}})


def make_inputs(folder: pathlib.Path, blessed: bool, tflite: bool = True) -> dict:
    files = {
        "model/Format-Serving/saved_model.pb": b"graph",
        "model/Format-Serving/variables/variables.index": b"index",
        "model/files/tokenizer.model": b"pieces",
        "model/export.json": json.dumps({"parity": PARITY}).encode(),
        "student/metrics.json": json.dumps(TRAINING).encode(),
        "tokenizer/tokenizer.model": b"pieces",
        "tokenizer/kept_ids.npy": b"ids",
    }
    if tflite:
        files["model/files/model.tflite"] = b"flatbuffer" * 1000
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    inputs = {}
    types = {
        "model": standard_artifacts.Model,
        "model_blessing": standard_artifacts.ModelBlessing,
        "model_evaluation": standard_artifacts.ModelEvaluation,
        "student": standard_artifacts.Model,
        "tokenizer": standard_artifacts.Model,
        "examples": standard_artifacts.Examples,
    }
    for number, (name, kind) in enumerate(types.items(), start=1):
        artifact = kind()
        artifact.uri, artifact.id = str(folder / name), number
        inputs[name] = [artifact]
    inputs["model_blessing"][0].set_int_custom_property("blessed", int(blessed))
    return inputs


def push(folder: pathlib.Path, inputs: dict, directory: str | None = None) -> standard_artifacts.PushedModel:
    pushed = standard_artifacts.PushedModel()
    pushed.uri = str(folder / "pushed_artifact")
    properties = {"push_directory": directory or str(folder / "pushed"), "config": CONFIG.to_json(), "source_digest": "abc"}
    pusher_executor.Executor().Do(inputs, {"pushed_model": [pushed]}, properties)
    return pushed


def files_below(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("blessed", "served"), [(True, True), (True, False), (False, True)])
def test_where_tensorflow_serving_is_asked_both_must_bless(tmp_path, blessed, served):
    inputs = make_inputs(tmp_path, blessed)
    infra = standard_artifacts.InfraBlessing()
    infra.uri, infra.id = str(tmp_path / "infra"), 9
    infra.set_int_custom_property("blessed", int(served))
    pushed = push(tmp_path, {**inputs, "infra_blessing": [infra]})
    assert pushed.get_int_custom_property("pushed") == int(blessed and served)
    assert (tmp_path / "pushed").exists() == (blessed and served)


def test_a_blessed_model_is_pushed_with_a_manifest_of_every_file(tmp_path):
    before = int(time.time())
    pushed = push(tmp_path, make_inputs(tmp_path, blessed=True))
    assert pushed.get_int_custom_property("pushed") == 1
    version = int(pushed.get_string_custom_property("pushed_version"))
    assert before <= version <= time.time()
    folder = tmp_path / "pushed" / str(version)
    assert pushed.get_string_custom_property("pushed_destination") == str(folder)
    files = files_below(folder)
    assert set(files) == {
        "saved_model/saved_model.pb",
        "saved_model/variables/variables.index",
        "model.tflite",
        "tokenizer.model",
        "README.md",
        "NOTICE",
        "manifest.json",
    }
    content = json.loads(files.pop("manifest.json"))
    assert {record["path"]: record["sha256"] for record in content["files"]} == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items()
    }
    assert {record["path"]: record["bytes"] for record in content["files"]} == {path: len(data) for path, data in files.items()}
    assert {record["path"]: record["format"] for record in content["files"]} == {
        "saved_model/saved_model.pb": "saved_model",
        "saved_model/variables/variables.index": "saved_model",
        "model.tflite": "tflite",
        "tokenizer.model": "sentencepiece",
        "README.md": "model_card",
        "NOTICE": "notice",
    }
    assert content["version"] == version
    assert content["config"] == CONFIG.to_dict()
    assert content["config_digest"] == CONFIG.digest
    assert content["metrics"] == {"evaluation": METRICS, "training": TRAINING}
    assert content["parity"] == PARITY
    card = files["README.md"].decode()
    assert "| this model, as exported | 3.250 |" in card and "| tflite | 0.0 | 99.87% | 3.250 |" in card
    assert files["NOTICE"].decode().strip() in card
    assert content["parents"]["teacher"] == "gguf:package"
    assert content["parents"]["student"] == {"uri": str(tmp_path / "student"), "id": 4}
    assert set(content["parents"]) == {"teacher", "tokenizer", "examples", "student", "model"}
    assert content["packages"]["tensorflow"] == tf.__version__
    assert json.loads((tmp_path / "pushed_artifact" / "manifest.json").read_text()) == content


def test_a_model_that_is_not_blessed_leaves_nothing_behind(tmp_path):
    pushed = push(tmp_path, make_inputs(tmp_path, blessed=False))
    assert pushed.get_int_custom_property("pushed") == 0
    assert not (tmp_path / "pushed").exists()
    assert not (tmp_path / "pushed_artifact").exists()


def test_only_the_exported_formats_are_pushed(tmp_path):
    push(tmp_path, make_inputs(tmp_path, blessed=True, tflite=False))
    [folder] = (tmp_path / "pushed").iterdir()
    assert not (folder / "model.tflite").exists() and (folder / "saved_model" / "saved_model.pb").exists()


def test_versions_rise_also_within_a_second_and_after_a_clock_that_went_ahead(tmp_path):
    inputs = make_inputs(tmp_path, blessed=True)
    versions = [int(push(tmp_path, inputs).get_string_custom_property("pushed_version")) for _ in range(2)]
    ahead = versions[-1] + 1_000_000
    (tmp_path / "pushed" / str(ahead)).mkdir()
    versions.append(int(push(tmp_path, inputs).get_string_custom_property("pushed_version")))
    assert versions[0] < versions[1] < versions[2] == ahead + 1


@pytest.mark.parametrize("moment", ["copy", "rename"])
def test_a_push_that_fails_leaves_no_version(tmp_path, monkeypatch, moment):
    inputs = make_inputs(tmp_path, blessed=True)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    if moment == "copy":
        os.remove(tmp_path / "tokenizer" / "tokenizer.model")
        error: type[Exception] = tf.errors.NotFoundError
    else:
        monkeypatch.setattr(pusher_executor.tf.io.gfile, "rename", fail)
        error = OSError
    with pytest.raises(error):
        push(tmp_path, inputs)
    assert list((tmp_path / "pushed").iterdir()) == []


def test_no_reader_ever_sees_a_version_without_its_manifest(tmp_path, monkeypatch):
    rename = tf.io.gfile.rename
    seen = []

    def watch(source, target, *args, **kwargs):
        if pathlib.Path(target).parent == tmp_path / "pushed":
            seen.append([path.name for path in (tmp_path / "pushed").iterdir() if path.name.isdecimal()])
            assert (pathlib.Path(source) / "manifest.json").exists()
        rename(source, target, *args, **kwargs)

    monkeypatch.setattr(pusher_executor.tf.io.gfile, "rename", watch)
    push(tmp_path, make_inputs(tmp_path, blessed=True))
    assert seen == [[]]


def test_what_a_killed_push_left_is_removed_by_the_next(tmp_path):
    left = tmp_path / "pushed" / f".{123}.{'0' * 32}.partial"
    left.mkdir(parents=True)
    (left / "model.tflite").write_bytes(b"half")
    foreign = tmp_path / "pushed" / ".keep.partial"
    foreign.mkdir()
    push(tmp_path, make_inputs(tmp_path, blessed=True))
    assert not left.exists() and foreign.exists()


def test_in_a_bucket_the_manifest_comes_last(tmp_path, monkeypatch):
    # TensorFlow's in-memory file system has the same kind of address as gs://, and no atomic rename of a folder either.
    write = library_manifest.write_bytes
    before = []

    def watch(path, content):
        if path.endswith("manifest.json"):
            before.extend(sorted(tf.io.gfile.listdir(os.path.dirname(path))))
        write(path, content)

    monkeypatch.setattr(library_manifest, "write_bytes", watch)
    folder = push(tmp_path, make_inputs(tmp_path, blessed=True), "ram://bucket/pushed").get_string_custom_property("pushed_destination")
    assert folder.startswith("ram://bucket/pushed/")
    assert before == ["NOTICE", "README.md", "model.tflite", "saved_model", "tokenizer.model"]
    assert sorted(tf.io.gfile.listdir(folder)) == sorted([*before, "manifest.json"])
    with tf.io.gfile.GFile(f"{folder}/manifest.json") as file:
        assert "saved_model/saved_model.pb" in {record["path"] for record in json.loads(file.read())["files"]}
