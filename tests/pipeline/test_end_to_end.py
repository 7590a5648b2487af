"""The real pipeline, from text to a pushed model, with a tiny random teacher: what is run, what is cached, what is pushed.

The tests share one folder, as the runs of a person who tries things do; each says which nodes must run again after its change.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest
import yaml

from gemma_tf_distill import cli
from gemma_tf_distill.config import Config, config_from_dict
from gemma_tf_distill.errors import ConfigError, CorpusError, UserError, WeightsError
from gemma_tf_distill.report.runs import read_run
from tests.conftest import SENTENCES
from tfx_pipeline import checks, local_runner
from tfx_pipeline import pipeline as pipeline_module
from tfx_pipeline.report_page import rebuild_page

pytestmark = pytest.mark.slow

NODES = [
    "CorpusGen",
    "DataValidator",
    "StatisticsGen",
    "SchemaGen",
    "TeacherScorer",
    "Distiller",
    "ExampleValidator",
    "Exporter",
    "Baseline",
    "Evaluator",
    "Pusher",
]
RESOLVED = {"Baseline"}  # A resolver looks anew in every run.


@pytest.fixture(scope="module")
def values(tmp_path_factory, tiny_teacher) -> dict:
    """A config: forty short texts, two of the teacher's seven layers."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_teacher.save(folder / "teacher")
    (folder / "corpus").mkdir()
    choice = random.Random(0)
    for number in range(40):
        (folder / "corpus" / f"{number}.txt").write_text(" ".join(choice.choices(SENTENCES, k=8)) + f" {number}")
    return {
        "name": "tiny",
        "teacher": {"source": str(folder / "teacher"), "batch_size": 8},
        "corpus": {"source": f"text:{folder}/corpus/*.txt", "window": 32, "heldout_fraction": 0.3, "min_characters": 20},
        "student": {"layers": [0, 1]},
        "distillation": {"top_k": 8},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "log_every": 2},
        "export": {"context_length": 64, "prefill_lengths": [8], "max_new_tokens": 4, "prompts": ["Returns the"]},
        # Before training the student is at 6.7 nats, after it at about 1.3.
        "gates": {"max_heldout_nll": 4.0, "max_bytes": 10_000_000, "min_decode_tokens_per_second": {"tflite": 1.0}},
    }


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("run") / "out"


def with_changes(values: dict, **sections: dict) -> Config:
    return config_from_dict({**values, **{name: {**values[name], **change} for name, change in sections.items()}})


def run(config: Config, output: pathlib.Path, runner: str = "local") -> tuple[dict, set[str]]:
    """The report, and the nodes that were not taken from cache; `events.jsonl` beside the output holds what was told."""
    events = output.parent / "events.jsonl"
    events.write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMMA_DISTILL_PROGRESS", str(events))
        outcome = local_runner.run(config, output, runner)
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    states = {line["node"]: line["state"] for line in lines if line["event"] == "node"}
    assert set(states) == set(NODES)
    assert set(states.values()) <= {"complete", "cached"}
    report = outcome.report
    assert json.loads((output / "report.json").read_text()) == report
    # ML Metadata says the same as the log.
    assert all((report["seconds"][node] > 0) == (state == "complete") for node, state in states.items())
    return report, {node for node, state in states.items() if state == "complete"} - RESOLVED


def versions(output: pathlib.Path) -> list[pathlib.Path]:
    return sorted((output / "pushed").iterdir()) if (output / "pushed").exists() else []


@pytest.fixture(scope="module")
def first(values, output) -> dict:
    """The report of the first run, in which everything is new."""
    report, executed = run(config_from_dict(values), output)
    assert executed == set(NODES) - RESOLVED
    events = output.parent / "events.jsonl"
    events.rename(events.with_name("first_events.jsonl"))
    return report


def test_every_long_node_says_what_it_does_and_how_far_it_is(first, values, output):
    said: dict[str, list[str]] = {}
    node = ""
    for line in (output.parent / "first_events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "node":
            node = event["node"] if event["state"] == "running" else ""
        elif event["event"] in ("progress", "activity"):
            said.setdefault(node, []).append(event.get("task") or event["activity"])
            if event["event"] == "progress":
                assert event["total"] is None or 0 <= event["done"] <= event["total"]
    loading = f"loading {values['teacher']['source']}"
    assert {loading, "teacher targets"} <= set(said["TeacherScorer"])
    assert {loading, "held-out text", "compiling the training step", "control", "student"} <= set(said["Distiller"])
    formats = list(enumerate(("saved_model", "tflite", "litertlm"), start=1))
    assert {f"writing {format}, format {number} of 3" for number, format in formats} <= set(said["Exporter"])
    assert {"parity of saved_model, file 1 of 3", "parity of tflite, file 2 of 3", loading} <= set(said["Exporter"])
    assert {f"parity of {format}, file {number} of 3: measuring its speed" for number, format in formats} <= set(said["Exporter"])
    assert "CorpusGen" in said
    assert any(step.startswith("copying to ") for step in said["Pusher"])


def test_the_report_says_what_was_made(first, values, output):
    assert set(first) == {"teacher", "student", "tokens", "artifacts", "seconds", "blessed", "gates", "failures", "pushed"}
    assert set(first["teacher"]) == {"source", "parameters", "heldout_nll", "bits_per_byte"}
    student = first["student"]
    assert set(student) == {
        "parameters",
        "vocabulary",
        "layers",
        "heldout_nll_initial",
        "heldout_nll",
        "heldout_nll_control",
        "gap_closed",
        "bits_per_byte",
        "kl_to_teacher",
        "top1_agreement",
        "top5_agreement",
        "ece",
    }
    assert first["teacher"]["source"] == values["teacher"]["source"]
    assert student["layers"] == 2
    assert student["heldout_nll"] < 2 < student["heldout_nll_initial"]
    assert 0 < student["bits_per_byte"] < first["teacher"]["bits_per_byte"]
    assert student["top1_agreement"] <= student["top5_agreement"] <= 1
    assert first["tokens"]["train"] > first["tokens"]["heldout"] > 100
    assert list(first["seconds"]) == NODES
    assert first["blessed"] is True
    assert first["failures"] == []
    gates = {(gate["gate"], gate["slice"]): gate for gate in first["gates"]}
    assert set(gates) == {
        ("tokens", "overall"),
        ("max_heldout_nll", "overall"),
        ("max_regression_vs_baseline", "overall"),
        ("parity", "files"),
        *(("max_bytes", format) for format in ("saved_model", "tflite", "litertlm")),
        ("min_decode_tokens_per_second", "tflite"),
    }
    assert all(gate["held"] for gate in gates.values())
    nll = gates["max_heldout_nll", "overall"]
    assert nll["low"] < nll["got"] == student["heldout_nll"] < nll["high"]
    [tflite] = [file for file in first["artifacts"] if file["format"] == "tflite"]
    assert gates["max_bytes", "tflite"]["got"] == tflite["bytes"]
    [version] = versions(output)
    assert first["pushed"] == str(version)


def test_the_evaluator_and_the_distiller_agree_on_the_exported_model(first, output):
    [metrics] = (output / "pipeline" / "Distiller" / "student").glob("*/metrics.json")
    trained = json.loads(metrics.read_text())
    # The same tokens and weights by another forward pass, in float32 sums of about 3,000 terms.
    assert first["student"]["heldout_nll"] == pytest.approx(trained["heldout_nll"], rel=1e-3)
    assert first["teacher"]["heldout_nll"] == pytest.approx(trained["teacher_heldout_nll"], rel=1e-3)
    assert first["student"]["kl_to_teacher"] == pytest.approx(trained["kl_to_teacher"], rel=1e-2)


def test_the_page_shows_the_run_and_is_the_same_from_a_folder_that_was_moved(first, output):
    page = (output / "report.html").read_text()
    root = ElementTree.fromstring(page.partition("\n")[2])
    text = " ".join("".join(root.itertext()).split())
    assert "✓ Blessed and pushed" in text
    assert f"Pushed as version {pathlib.Path(first['pushed']).name}." in text
    assert f"{first['student']['heldout_nll']:.3f}" in text
    for part in ("distill-loss-title", "distill-soft_loss-title", "hidden-states-title", "attention-maps-title", "pareto-size-title"):
        assert f'id="{part}"' in page, part
    assert "Not recorded" not in text
    assert "not recorded" not in text
    nll = next(gate for gate in first["gates"] if gate["gate"] == "max_heldout_nll")
    assert f"gates.max_heldout_nll≤ 4{nll['got']:.4g}{nll['low']:.4g}–{nll['high']:.4g}✓ holds" in text
    assert "there is no blessed model yet" in text
    assert "4-grams repeated" in text
    assert f"{first['student']['bits_per_byte']:.3f}" in text
    assert "TFDV, split" in text
    assert "training documents27" in text and "sourcedrift: held-out documents, infinity norm" in text
    # Where the pushed files come from: every artifact but the Resolver's, by its place in the folder.
    assert all(f"pipeline/{node}/" in text for node in NODES if node not in ("Baseline", "Pusher"))
    assert "gemma-distill run config.json" in text
    # What is under another name by then is found all the same.
    moved = output.rename(output.with_name("moved"))
    try:
        assert rebuild_page(moved).read_text() == page
        # What an earlier version left has no gates on record.
        records = [path for name in ("gates.json", "files.json") for path in (moved / "pipeline" / "Evaluator").rglob(name)]
        assert len(records) == 2
        kept = {path: path.read_bytes() for path in records}
        for path in records:
            path.unlink()
        old = rebuild_page(moved).read_text()
        assert "which they were was not recorded" in old
        assert "4-grams repeated" not in old
        for path, content in kept.items():
            path.write_bytes(content)
        assert rebuild_page(moved).read_text() == page
    finally:
        moved.rename(output)


def test_the_pushed_version_is_whole_and_runs(first, output):
    import hashlib

    from gemma_tf_distill.export.generation import load_generator

    [version] = versions(output)
    manifest = json.loads((version / "manifest.json").read_text())
    files = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()} - {"manifest.json"}
    assert {record["path"] for record in manifest["files"]} == files
    assert {"saved_model/saved_model.pb", "model.tflite", "tokenizer.model"} <= files
    for record in manifest["files"]:
        content = (version / record["path"]).read_bytes()
        assert (record["bytes"], record["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert [(version / record["path"]).as_posix() for record in manifest["files"]] == [file["path"] for file in first["artifacts"]]
    assert manifest["metrics"]["evaluation"]["heldout_nll"] == first["student"]["heldout_nll"]
    # A run and what it pushed are beside each other in the same figures.
    run_figures, version_figures = read_run(output), read_run(version)
    assert run_figures.bits_per_byte == version_figures.bits_per_byte == first["student"]["bits_per_byte"]
    assert run_figures.teacher_bits_per_byte == version_figures.teacher_bits_per_byte == first["teacher"]["bits_per_byte"]
    assert manifest["config"] == json.loads((output / "config.json").read_text())
    texts = ["".join(load_generator(version / name).generate("Returns the", 4)) for name in ("saved_model", "model.tflite")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("runner", ["local", "beam"])
def test_a_second_run_with_nothing_changed_comes_from_cache(first, values, output, runner):
    report, executed = run(config_from_dict(values), output, runner)
    assert executed == set()
    assert {key: value for key, value in report.items() if key != "seconds"} == {
        key: value for key, value in first.items() if key != "seconds"
    }
    assert len(versions(output)) == 1


def test_what_a_stopped_run_names_can_be_trained_on_elsewhere(first, values, output, tmp_path):
    from components.distiller.workers import train_on_folders

    before = (output / "report.json").read_bytes()
    for_tpu = config_from_dict({**values, "strategy": {"name": "tpu"}})
    stopped = local_runner.run(for_tpu, output, until="TeacherScorer")
    assert (stopped.until, set(stopped.folders)) == ("TeacherScorer", {"tokenizer", "examples"})
    # Up to there everything comes from cache: where it is trained changes nothing about the targets.
    before_training = ["CorpusGen", "DataValidator", "StatisticsGen", "SchemaGen", "TeacherScorer", "ExampleValidator"]
    assert stopped.seconds == dict.fromkeys(before_training, 0)
    assert (output / "report.json").read_bytes() == before
    here = with_changes({**values, "xla": {"jit_scope": "none"}}, training={"epochs": 0.1, "control": False})
    metrics = train_on_folders(here, stopped.folders["examples"], stopped.folders["tokenizer"], str(tmp_path / "out"))
    assert metrics["tokens"] == first["tokens"]
    assert (tmp_path / "out" / "student" / "config.json").exists()
    with pytest.raises(ConfigError, match=r"strategy\.name is tpu, which needs tensorflow-tpu.*run --until TeacherScorer here"):
        local_runner.run(for_tpu, output)


@pytest.mark.parametrize(("runner", "limit"), [("local", 3.5), ("beam", 3.0)])
def test_a_changed_threshold_runs_evaluator_and_pusher_only(first, values, output, runner, limit):
    before = versions(output)
    report, executed = run(with_changes(values, gates={"max_heldout_nll": limit}), output, runner)
    assert executed == {"Evaluator", "Pusher"}
    assert report["blessed"]
    assert versions(output) == [*before, pathlib.Path(report["pushed"])]


def test_an_untrained_student_is_not_blessed_and_nothing_is_pushed(first, values, output):
    before = versions(output)
    untrained = with_changes(
        values,
        training={"learning_rate": 1e-12, "control": False, "epochs": 0.1},
        export={"formats": ["saved_model"], "prompts": []},
        gates={"min_decode_tokens_per_second": None},
    )
    report, executed = run(untrained, output)
    assert executed == {"Distiller", "Exporter", "Evaluator", "Pusher"}
    assert report["student"]["heldout_nll"] == pytest.approx(report["student"]["heldout_nll_initial"], rel=1e-3)
    assert report["student"]["heldout_nll_control"] is None
    assert (report["blessed"], report["pushed"]) == (False, None)
    page = (output / "report.html").read_text()
    assert "✗ Not blessed, not pushed" in page
    assert "gates.max_heldout_nll asks for at most 4" in page
    assert versions(output) == before
    assert {file["format"] for file in report["artifacts"]} == {"saved_model", "sentencepiece"}
    assert all(pathlib.Path(file["path"]).stat().st_size == file["bytes"] for file in report["artifacts"])


def test_a_student_worse_than_the_blessed_one_is_not_pushed(first, values, output):
    # The value thresholds are met: only the baseline stops it.
    worse = with_changes(
        values,
        training={"learning_rate": 1e-12, "control": False, "epochs": 0.1},
        export={"formats": ["saved_model"], "prompts": []},
        gates={"max_heldout_nll": 50.0, "max_regression_vs_baseline": "5%", "min_decode_tokens_per_second": None},
    )
    before = versions(output)
    outcome = local_runner.run(worse, output)
    assert not outcome.report["blessed"]
    [failure] = outcome.failures
    assert "blessed baseline's" in failure
    assert "gates.max_regression_vs_baseline allows +5.0%" in failure
    assert versions(output) == before


def test_the_runs_of_the_folder_are_ranked_by_what_ml_metadata_knows(first, output, capsys):
    # After the two tests above: runs that were refused are among them, and nothing but the database is read.
    assert cli.main(["runs", str(output), "--by", "heldout_nll", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    ranked = [run for run in runs if run["rank"] is not None]
    assert [run["rank"] for run in ranked] == list(range(1, len(ranked) + 1))
    # One that stopped before training has no figures.
    assert all(run["blessed"] is None for run in runs[len(ranked) :])
    reached = [run["figures"]["heldout_nll"] for run in ranked]
    assert reached == sorted(reached)
    assert {run["blessed"] for run in ranked} == {True, False}
    assert all((run["pushed"] is not None) == run["blessed"] for run in ranked)
    best = ranked[0]["figures"]
    assert best["heldout_nll"] == pytest.approx(first["student"]["heldout_nll"], abs=1e-6)
    # A random teacher is worse than any control: there is no gap to close.
    assert first["student"]["gap_closed"] is None
    assert "gap_closed" not in best
    assert best["tflite_bytes"] == sum(file["bytes"] for file in first["artifacts"] if file["format"] == "tflite")
    assert cli.main(["runs", str(output), "--by", "tflite_bytes"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "1"


def test_every_objective_at_once_from_stored_draws_to_a_blessed_model(first, values, output):
    everything = with_changes(
        values,
        distillation={
            "targets": "sampled",
            "draws": 32,
            "alpha": {"start": 0.9, "end": 0.1},
            "hidden_states": {"weight": 1.0, "mapping": "subset"},
            "attention_maps": {"weight": 0.5, "mapping": "adaptive"},
            "on_policy": {"fraction": 0.3, "prompt_tokens": 8},
        },
        training={"accumulation_steps": 2, "layer_dropout": 0.1, "control": False},
        export={"formats": ["saved_model"], "prompts": []},
        gates={"min_decode_tokens_per_second": None},
    )
    report, executed = run(everything, output)
    assert executed == {"TeacherScorer", "Distiller", "Exporter", "Evaluator", "Pusher"}
    # Most of the loss is not the labels here, and the teacher is random: far from the first 6.7 nats is enough.
    assert report["student"]["heldout_nll"] < 5 < 6 < report["student"]["heldout_nll_initial"]


def test_changed_code_runs_its_component_again(first, values, output, monkeypatch):
    digest = pipeline_module.source_digest
    monkeypatch.setattr(
        pipeline_module, "source_digest", lambda name: digest(name)[::-1] if name == "components.pusher.component" else digest(name)
    )
    assert run(config_from_dict(values), output)[1] == {"Pusher"}


def test_an_output_folder_of_another_config_is_refused(first, values, output):
    before = (output / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"corpus\.window was 32 and is 16 now"):
        local_runner.run(with_changes(values, corpus={"window": 16}), output)
    assert (output / "config.json").read_bytes() == before


@pytest.mark.parametrize("runner", ["local", "beam"])
def test_a_mistake_that_a_component_finds_comes_out_as_it_is(values, tmp_path, monkeypatch, runner):
    monkeypatch.setattr(checks, "check_inputs", lambda config: None)
    config = with_changes(values, corpus={"min_characters": 100_000})
    with pytest.raises(CorpusError, match="no documents left") as caught:
        local_runner.run(config, tmp_path / "out", runner)
    assert "while running" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runner", ["local", "beam"])
def test_so_does_one_from_inside_a_beam_worker(first, values, output, monkeypatch, runner):
    from components.teacher_scorer import handler

    def fail(source: str, *others: object):
        raise WeightsError(f"{source} is damaged: its sha256 is not the published one")

    monkeypatch.setattr(handler, "load_teacher", fail)
    with pytest.raises(WeightsError) as caught:
        local_runner.run(with_changes(values, teacher={"batch_size": 7}), output, runner)
    assert str(caught.value) == f"{values['teacher']['source']} is damaged: its sha256 is not the published one"


def test_a_killed_command_is_started_again_and_goes_on(values, tmp_path):
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(
            {
                **values,
                "training": {**values["training"], "control": False},
                "export": {"formats": ["saved_model"], "prompts": []},
                "gates": {"max_heldout_nll": 4.0},
            }
        )
    )
    command = [sys.executable, "-m", "gemma_tf_distill.cli", "run", "config.yaml", "--output", "out", "--log", "json"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if (event["event"], event.get("node"), event.get("state")) == ("node", "TeacherScorer", "running"):
            break
    time.sleep(1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    states = {event["node"]: event["state"] for event in events if event["event"] == "node"}
    assert states["CorpusGen"] == "cached"
    assert states["TeacherScorer"] == states["Pusher"] == "complete"
    assert events[-1]["event"] == "outcome"
    assert events[-1]["report"]["blessed"]


def test_a_pushed_version_that_was_taken_away_is_told(first, values, output):
    # Pusher comes from cache, and what it had pushed is gone.
    report, _ = run(config_from_dict(values), output)
    version = pathlib.Path(report["pushed"])
    version.rename(version.with_name("elsewhere"))
    with pytest.raises(UserError, match="is no longer there"):
        local_runner.run(config_from_dict(values), output)
