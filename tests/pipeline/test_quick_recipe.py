"""The shipped recipe `quick` on the real Gemma 3 270M, through the command line, as a person runs it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from gemma_tf_distill.config import load_config

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.real_weights]

COMMAND = [sys.executable, "-P", "-m", "gemma_tf_distill.cli"]


def gemma_distill(*arguments: str, folder: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False, env={**os.environ})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("quick")
    return folder, gemma_distill("run", "quick", "--runner", "beam", folder=folder)


def test_a_model_is_trained_judged_and_pushed(run):
    folder, done = run
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    report = json.loads((folder / "outputs/quick/report.json").read_text())
    assert report["blessed"] is True
    student = report["student"]
    assert student["heldout_nll"] < student["heldout_nll_initial"] / 2
    assert report["teacher"]["parameters"] == 268_098_176
    assert student["layers"] == len(load_config("quick").student.layers)
    pushed = pathlib.Path(report["pushed"])
    manifest = json.loads((folder / pushed / "manifest.json").read_text())
    assert {"saved_model", "tflite", "litertlm", "sentencepiece"} <= {file["format"] for file in manifest["files"]}
    for file in manifest["files"]:
        assert (folder / pushed / file["path"]).stat().st_size == file["bytes"]
    assert "tokens/s" in done.stdout
    for prompt in load_config("quick").export.prompts:
        assert prompt.split("\n")[0] in done.stdout


@pytest.mark.parametrize("file", ["saved_model", "model.tflite"])
def test_what_was_pushed_completes_a_prompt(run, file):
    folder, _ = run
    (version,) = (folder / "outputs/quick/pushed").iterdir()
    done = gemma_distill("generate", str(version / file), "Returns the", "--max-new-tokens", "8", folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Returns the")
    assert len(done.stdout.strip()) > len("Returns the")


def test_every_shipped_recipe_is_what_its_file_name_says():
    recipes = sorted((pathlib.Path(__file__).resolve().parents[2] / "tfx_pipeline/configs").glob("*.yaml"))
    assert {"demo", "quick"} <= {path.stem for path in recipes}
    for path in recipes:
        assert load_config(path.stem).name == path.stem
        assert f"gemma-distill run {path.stem}" in path.read_text()
