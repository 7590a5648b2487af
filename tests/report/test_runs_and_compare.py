"""Figures from folders, and the table of several."""

import json
import pathlib
import shutil

import pytest

from gemma_tf_distill.errors import UserError
from gemma_tf_distill.report.compare import compare
from gemma_tf_distill.report.runs import earlier_pushes, previous_push, read_run, sibling_runs
from tests.report.conftest import PARITY, REPORT

FLOAT = {
    **REPORT,
    "student": {key: value for key, value in REPORT["student"].items() if "quantiz" not in key and "ptq" not in key and "float" not in key},
}
# As it was written before gates and bits a byte were recorded.
OLD = {
    **{name: value for name, value in FLOAT.items() if name not in ("gates", "failures")},
    **{name: {key: value for key, value in FLOAT[name].items() if key != "bits_per_byte"} for name in ("teacher", "student")},
}


def manifest(version: int, nll: float = 3.2, words: int = 12_613, **evaluation) -> dict:
    return {
        "version": version,
        "files": [{"path": "model.tflite", "format": "tflite", "bytes": 24_000_000, "sha256": "0"}],
        "config": {"name": "demo"},
        "parents": {"teacher": "gguf:package"},
        "metrics": {
            "evaluation": {"heldout_nll": nll, "teacher_heldout_nll": 3.1782, "kl_to_teacher": 0.7, "top1_agreement": 0.5, **evaluation},
            "training": {"vocabulary": words, "parameters": 41_300_000, "tokens": {"heldout": 14_656}, "heldout_nll_control": 3.3302},
        },
        "parity": {"files": PARITY},
    }


def write(path: pathlib.Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    """Two runs, one of which pushed twice, and things that are no runs."""
    write(tmp_path / "demo" / "config.json", {"name": "demo"})
    write(tmp_path / "demo" / "report.json", REPORT)
    write(tmp_path / "demo" / "pushed" / "1795764746" / "manifest.json", manifest(1795764746, 3.1564))
    write(tmp_path / "demo" / "pushed" / "1795700000" / "manifest.json", manifest(1795700000))
    rejected = {
        **FLOAT,
        "blessed": False,
        "pushed": None,
        "artifacts": [
            {"path": "/elsewhere/other/pipeline/Exporter/model/7/files/model.tflite", "format": "tflite", "bytes": 9_000_000, "sha256": "0"}
        ],
    }
    write(tmp_path / "other" / "report.json", rejected)
    write(tmp_path / "other" / "pipeline" / "Exporter" / "model" / "7" / "export.json", {"parity": {"files": PARITY}})
    write(tmp_path / "foreign" / "report.json", {"rows": []})
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_a_run_is_read_wherever_it_lies_now(root):
    run = read_run(root / "demo")
    assert (run.name, run.version, run.blessed, run.scheme, run.words) == ("demo", "1795764746", True, "int4_block32", 12_613)
    assert (run.nll, run.ptq_nll, run.control_nll) == (3.1564, 3.3341, 3.3302)
    assert (run.file.format, run.file.bytes, run.file.decode_tokens_per_second) == ("tflite", 24_100_000, 341.9)
    rejected = read_run(root / "other")
    assert (rejected.blessed, rejected.version, rejected.scheme) == (False, None, None)
    # Its files were written in a folder that is elsewhere by now.
    assert rejected.file.decode_tokens_per_second == 341.9


def test_what_is_beside_and_before_a_run(root):
    assert [run.path.name for run in sibling_runs(root / "demo")] == ["other"]
    assert [run.version for run in earlier_pushes(root / "demo", "1795764746")] == ["1795700000"]
    assert previous_push(read_run(root / "demo")).version == "1795700000"
    assert previous_push(read_run(root / "demo" / "pushed" / "1795764746")).version == "1795700000"
    assert previous_push(read_run(root / "demo" / "pushed" / "1795700000")) is None
    # What failed is compared with the latest that did not.
    shutil.copytree(root / "demo" / "pushed", root / "other" / "pushed")
    assert previous_push(read_run(root / "other")).version == "1795764746"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder / "nowhere", "there is no folder"),
        (lambda folder: folder / "empty", r"is no folder of a run, which has config.json and report.json, nor of a pushed version"),
        (lambda folder: folder / "foreign", "is not of gemma-distill, or damaged"),
        (lambda folder: (write(folder / "begun" / "config.json", {}), folder / "begun")[1], "has not finished, it has no report.json"),
        (lambda folder: (write(folder / "list" / "report.json", []), folder / "list")[1], "it holds no JSON object"),
        (lambda folder: ((folder / "empty" / "manifest.json").write_text("{"), folder / "empty")[1], "manifest.json is damaged"),
    ],
)
def test_folders_that_are_no_runs_are_told(root, prepare, message):
    with pytest.raises(UserError, match=message):
        read_run(prepare(root))


def test_every_model_is_in_the_table_once(root):
    comparison = compare([read_run(root / "demo"), read_run(root / "other")])
    assert [(row.kind, row.model) for row in comparison.rows] == [
        ("teacher", "teacher gguf:package"),
        ("control", "demo: control (no teacher)"),
        ("ptq", "demo: rounded to int4_block32 (PTQ)"),
        ("previous push", "demo: previous push 1795700000"),
        ("given", "demo"),
        ("given", "other"),
    ]
    teacher, control, *_, demo, other = comparison.rows
    assert teacher.perplexity_vs_teacher == 1.0
    assert control.perplexity_vs_teacher == pytest.approx(1.164, abs=1e-3)
    assert (demo.blessed, other.blessed, control.blessed) == (True, False, None)
    lines = comparison.render().splitlines()
    assert lines[0].split() == ["NLL", "perplexity/teacher", "bits/byte", "top-1", "gap", "closed", "file", "size", "decode/s", "blessed"]
    assert lines[1].split() == ["teacher", "gguf:package", "3.178", "1.00", "1.028", "–", "–", "–", "–", "–", "–"]
    # The control's tokens are of the same bytes: 1.021 * 3.3302 / 3.1564.
    assert lines[2].split()[-10:] == ["teacher)", "3.330", "1.16", "1.077", "–", "–", "–", "–", "–", "–"]
    # The student passed its teacher: 114 % of the way from 3.330 to 3.178.
    assert lines[5].split() == ["demo", "3.156", "0.98", "1.021", "57.1", "%", "114.3", "%", "tflite", "24.1", "MB", "341.9", "yes"]
    assert json.loads(json.dumps(comparison.to_dict()))["models"][4]["bytes"] == 24_100_000
    assert comparison.notes == []


def test_other_vocabularies_are_compared_in_bits_a_byte(root):
    folder = root / "small" / "pushed"
    write(folder / "1" / "manifest.json", manifest(1, 2.5, words=7812))
    write(root / "old" / "report.json", OLD)
    comparison = compare([read_run(root / "old"), read_run(folder / "1")])
    assert "bits/byte" not in comparison.render()
    [note] = comparison.notes
    assert "The vocabularies differ (7,812 and 12,613 words)" in note
    assert "were not measured" in note
    write(folder / "1" / "manifest.json", manifest(1, 2.5, words=7812, bits_per_byte=0.91))
    write(folder / "2" / "manifest.json", manifest(2, 3.1, bits_per_byte=0.95))
    comparison = compare([read_run(folder / "1"), read_run(folder / "2")])
    assert comparison.notes[0].endswith("compare bits a byte.")
    assert "bits/byte" in comparison.render().splitlines()[0]
    assert [row.bits_per_byte for row in comparison.rows if row.kind == "given"] == [0.91, 0.95]


def test_names_tell_runs_of_equal_folders_apart(root):
    write(root / "a" / "run" / "report.json", FLOAT)
    write(root / "b" / "run" / "report.json", FLOAT)
    given = compare([read_run(root / "a" / "run"), read_run(root / "b" / "run"), read_run(root / "demo" / "pushed" / "1795700000")]).rows
    assert [row.model for row in given if row.kind == "given"] == ["a/run", "b/run", "demo/pushed/1795700000"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("heldout_nll", "3.2"), ("heldout_nll", [3.2]), ("vocabulary", {"size": 3}), ("top1_agreement", "50 %"), ("parameters", True)],
)
def test_what_is_no_figure_is_told(tmp_path, name, value):
    write(tmp_path / "report.json", {**REPORT, "student": {**REPORT["student"], name: value}})
    with pytest.raises(UserError, match=r"report\.json is not of gemma-distill, or damaged \(ValueError: .* is "):
        read_run(tmp_path)


def test_a_version_that_is_no_number_is_told(tmp_path):
    write(tmp_path / "pushed" / "7" / "manifest.json", {**manifest(7), "version": "latest"})
    with pytest.raises(UserError, match="the version is 'latest'"):
        read_run(tmp_path / "pushed" / "7")


@pytest.mark.parametrize("nll", [float("nan"), float("inf")])
def test_a_training_that_came_to_no_number_has_no_bits_a_byte_to_go_by(tmp_path, nll):
    write(tmp_path / "report.json", {**REPORT, "student": {**REPORT["student"], "heldout_nll": nll}})
    comparison = compare([read_run(tmp_path)])
    assert all(row.bits_per_byte is None for row in comparison.rows if row.kind == "control")
    # Programs read the JSON, which knows no such numbers.
    assert json.loads(json.dumps(comparison.to_dict(), allow_nan=False))["models"][-1]["nll"] is None
