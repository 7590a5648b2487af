"""`gemma-distill export` and `gemma-distill parity` as a person types them, on a tiny model."""

import json
import pathlib
import shutil

import pytest

from gemma_tf_distill import cli
from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.export.manifest import read_manifest

SETTINGS = [
    "export.context_length=64",
    "export.prefill_lengths=[8]",
    "export.max_new_tokens=8",
    "export.parity_tokens=96",
    "corpus.window=32",
    "quantization.scheme=int8_channel",
]


def run(capfd, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    return code, *capfd.readouterr()


@pytest.fixture(scope="module")
def root(make_gemma, tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("versions")
    make_gemma().save(root / "model")
    (root / "text.txt").write_text("Returns the mean of the values along an axis. " * 40)
    return root


@pytest.fixture(scope="module")
def exported(root) -> pathlib.Path:
    overrides = [part for setting in SETTINGS for part in ("--set", setting)]
    assert cli.main(["export", str(root / "model"), str(root / "exported"), *overrides]) == 0
    return root / "exported"


def test_an_export_is_a_version(exported, root):
    assert {path.name for path in exported.iterdir()} == {
        "saved_model",
        "model.tflite",
        "model.litertlm",
        "tokenizer.model",
        "README.md",
        "NOTICE",
        "manifest.json",
    }
    manifest = read_manifest(str(exported))
    assert manifest["parents"] == {"teacher": str(root / "model"), "student": {"uri": str(root / "model")}}
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlicense: gemma\n")
    assert "exported as it is, in numbers of `int8_channel`" in card


def test_parity_of_an_export_and_entries_beside_its_report(exported, root, capfd):
    code, out, err = run(capfd, "parity", str(exported), "--json", "--log", "json", "--text", f"text:{root}/text.txt")
    report = json.loads(out)
    assert (code, report["passed"], report["weights_equal_fraction"]) == (0, True, 1.0)
    assert [file["format"] for file in report["files"]] == ["saved_model", "tflite", "litertlm"]
    assert report["files"][0]["tokens"] == 48
    entries = [json.loads(line) for line in err.splitlines()]
    assert {entry["severity"] for entry in entries} == {"INFO"}
    windows = [(entry["task"], entry["done"], entry["total"]) for entry in entries if entry.get("unit") == "windows"]
    # LiteRT-LM tells no scores: it only completes.
    with_scores = ("parity of saved_model, file 1 of 3", "parity of tflite, file 2 of 3")
    assert windows == [(task, done, 3) for task in with_scores for done in (1, 2, 3)]
    doing = [entry["activity"] for entry in entries if entry["event"] == "activity"]
    assert doing[0].startswith("loading ")
    steps = ("reading its weights", "starting its runtime", "completing prompts", "measuring its speed")
    assert doing[-4:] == [f"parity of litertlm, file 3 of 3: {step}" for step in steps]


def test_parity_with_another_student_fails(exported, root, make_gemma, capfd):
    make_gemma(seed=5).save(root / "other")
    code, out, _ = run(
        capfd, "parity", str(exported), "--student", str(root / "other"), "--text", f"text:{root}/text.txt", "--tokens", "32"
    )
    assert code == 3
    assert "parity fails" in out
    assert "does not hold the student's own numbers" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["parity", "/nowhere"], r"no manifest\.json in '/nowhere'"),
        (["parity", "{exported}", "--text", "text:/nowhere/*.txt"], "/nowhere"),
        (["parity", "{exported}", "--text", "text:{root}/text.txt", "--student", "{root}/none"], "name it with --student"),
        (["parity", "{exported}", "--tokens", "none"], "must be a whole number above 0"),
        (["export", "{root}/none", "{root}/new"], "is not a folder"),
        (["export", "{root}/model", "{root}/model"], "is there already and is no export"),
        (["export", "{root}/model", "{root}/text.txt"], "is there already and is no export"),
        (["export", "{root}/model", "{root}/new", "--set", "export.formats=[onnx]"], "export.formats"),
        (["export", "{root}/model", "{root}/new", "--set", "quantization.scheme=int4_block128"], "int4_block128 cuts the inputs"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(exported, root, capfd, arguments, message):
    given = [argument.format(exported=exported, root=root) for argument in arguments]
    code, out, err = run(capfd, *given)
    assert (code, out) == (2, "")
    assert err.startswith("gemma-distill: error: ") and err.count("\n") == 1
    assert message.replace("\\", "") in err
    assert not (root / "new").exists()


def test_a_pushed_version_is_not_replaced_by_an_export(root, capfd, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"files": [], "config": {}, "parents": {"model": {"uri": "somewhere"}}}))
    code, _, err = run(capfd, "export", str(root / "model"), str(tmp_path))
    assert code == 2
    assert "is there already and is no export" in err
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_held_out_text_that_is_gone_is_asked_for(exported, capfd, tmp_path):
    shutil.copytree(exported, tmp_path / "version")
    manifest = read_manifest(str(exported))
    manifest["parents"]["examples"] = {"uri": str(tmp_path / "gone")}
    (tmp_path / "version" / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = run(capfd, "parity", str(tmp_path / "version"))
    assert code == 2
    assert "is no longer at" in err and "--text" in err
    del manifest["parents"]["student"]
    (tmp_path / "version" / "manifest.json").write_text(json.dumps(manifest))
    assert "name it with --student" in run(capfd, "parity", str(tmp_path / "version"))[2]


def test_a_model_that_is_too_large_is_told_before_it_is_loaded(root, capfd, monkeypatch):
    from gemma_tf_distill.export import standalone

    sizes = standalone.describe_source(str(root / "model")) | {"vocabulary_size": 20_000_000}
    monkeypatch.setattr(standalone, "describe_source", lambda source: sizes)
    monkeypatch.setattr(standalone, "load_teacher", lambda source: pytest.fail("was loaded"))
    code, _, err = run(capfd, "export", str(root / "model"), str(root / "new"))
    assert code == 2
    assert "a .tflite holds 2.1 GB at the most" in err


def test_a_damaged_manifest(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(WeightsError, match="is damaged"):
        read_manifest(str(tmp_path))
