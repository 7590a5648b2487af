"""Which model a candidate is compared with."""

import pathlib

import pytest
from tfx.types import standard_artifacts

from components.quality_gate.baseline import LatestOtherBlessedModelStrategy


@pytest.fixture
def make_model(tmp_path: pathlib.Path):
    def make(number: int, vocabulary: bytes = b"words") -> standard_artifacts.Model:
        artifact = standard_artifacts.Model()
        artifact.id, artifact.uri = number, str(tmp_path / str(number))
        (tmp_path / str(number) / "files").mkdir(parents=True)
        (tmp_path / str(number) / "files" / "tokenizer.model").write_bytes(vocabulary)
        return artifact

    return make


def blessing(model: standard_artifacts.Model, blessed: int = 1) -> standard_artifacts.ModelBlessing:
    artifact = standard_artifacts.ModelBlessing()
    artifact.set_int_custom_property("blessed", blessed)
    artifact.set_int_custom_property("current_model_id", model.id)
    return artifact


def resolve(models, blessings, candidate) -> int | None:
    given = {"model": models, "model_blessing": blessings, "candidate": [candidate]}
    resolved = LatestOtherBlessedModelStrategy().resolve_artifacts(None, given)
    assert resolved["candidate"] == [candidate]
    assert len(resolved["model"]) == len(resolved["model_blessing"])
    for model, verdict in zip(resolved["model"], resolved["model_blessing"], strict=True):
        assert verdict.get_int_custom_property("current_model_id") == model.id
        return model.id
    return None


def test_the_latest_blessed_model_is_the_baseline(make_model):
    models = [make_model(number) for number in (1, 2, 3, 4)]
    assert resolve(models, [blessing(models[0]), blessing(models[1]), blessing(models[2], 0)], models[3]) == 2


def test_a_candidate_is_never_compared_with_itself(make_model):
    models = [make_model(number) for number in (1, 2)]
    assert resolve(models, [blessing(models[0]), blessing(models[1])], models[1]) == 1
    assert resolve(models[1:], [blessing(models[1])], models[1]) is None


def test_nothing_blessed_is_no_baseline(make_model):
    models = [make_model(number) for number in (1, 2)]
    assert resolve(models, [], models[1]) is None
    assert resolve(models, [blessing(models[0], 0)], models[1]) is None


def test_a_model_of_other_words_is_a_baseline_too(make_model):
    # The Evaluator compares it in bits per byte.
    same, other, candidate = make_model(1), make_model(2, b"other words"), make_model(3)
    assert resolve([same, other, candidate], [blessing(same), blessing(other)], candidate) == 2


def test_a_model_whose_files_are_gone_is_no_baseline(make_model, tmp_path):
    old, gone, candidate = make_model(1), make_model(2), make_model(3)
    (tmp_path / "2" / "files" / "tokenizer.model").unlink()
    assert resolve([old, gone, candidate], [blessing(old), blessing(gone)], candidate) == 1
