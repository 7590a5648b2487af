"""A run whose documents or prompts are too far from the training documents: it ends before the teacher scores, and says why."""

import json
import pathlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.data.splitting import HELDOUT, document_hash, split_of
from gemma_tf_distill.errors import CorpusError, UserError
from tests.conftest import SENTENCES
from tfx_pipeline import local_runner
from tfx_pipeline.report_page import rebuild_page

pytestmark = pytest.mark.slow

HELDOUT_FRACTION = 0.3
DRIFT = {"drift_comparator": {"jensen_shannon_divergence": {"byte_token_fraction": 0.2}}}
SKEW = {"skew_comparator": {"jensen_shannon_divergence": {"tokens_per_character": 0.3}}}
WHAT_TO_DO = "look at corpus.source, raise the limits of data_validation, or set data_validation.stop_on_anomalies to false"


def texts(heldout_is_foreign: bool) -> Iterator[str]:
    """Forty documents; those that are held out may be of characters that no piece of the tiny tokenizer has."""
    for number in range(40):
        plain = f"{SENTENCES[number % 8]} {SENTENCES[number % 7]} {number}"
        foreign = f"雪が降る {number} ☃☃☃ 雪が降る {number}"
        held_out = split_of(document_hash(foreign), HELDOUT_FRACTION) == HELDOUT
        if heldout_is_foreign and held_out:
            yield foreign
        elif not heldout_is_foreign or split_of(document_hash(plain), HELDOUT_FRACTION) != HELDOUT:
            yield plain


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tiny_teacher) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("teacher")
    tiny_teacher.save(folder / "teacher")
    return folder / "teacher"


@pytest.fixture
def values(tmp_path, teacher):
    """A config, of what is asked of its documents."""

    def make(heldout_is_foreign: bool, **asked) -> dict:
        (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(heldout_is_foreign)))
        (tmp_path / "prompts.txt").write_text("".join(f"雪が降る {number} ☃\n" for number in range(20)))
        return {
            "name": "tiny",
            "teacher": {"source": str(teacher)},
            "corpus": {
                "source": f"jsonl:{tmp_path}/corpus.jsonl",
                "window": 16,
                "heldout_fraction": HELDOUT_FRACTION,
                "min_characters": 10,
            },
            "student": {"layers": [0]},
            "distillation": {"top_k": 8},
            "data_validation": {"stop_on_anomalies": True, **asked},
        }

    return make


def executions(database: pathlib.Path) -> dict[str, int]:
    """The state of the latest execution of each node, as numbers of ML Metadata's `Execution.State`."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "SELECT Type.name, Execution.last_known_state FROM Execution JOIN Type ON Execution.type_id = Type.id ORDER BY Execution.id"
        ).fetchall()
    return {name.rpartition(".")[2]: state for name, state in rows}


COMPLETE, FAILED = 3, 4


@pytest.mark.parametrize(
    ("heldout_is_foreign", "asked", "words"),
    [
        (True, DRIFT, r"byte_token_fraction of held-out documents is (0\.\d{4}|1\.0000) from the training documents' \(.*\), limit 0\.2"),
        (False, SKEW, r"tokens_per_character of serving prompts is (0\.\d{4}|1\.0000) from the training documents' \(.*\), limit 0\.3"),
    ],
    ids=["drift", "skew"],
)
def test_the_run_ends_before_the_teacher_scores(values, tmp_path, heldout_is_foreign, asked, words):
    prompts = {"serving_prompts": str(tmp_path / "prompts.txt")} if asked is SKEW else {}
    config = values(heldout_is_foreign, **asked, **prompts)
    output = tmp_path / "out"
    with pytest.raises(CorpusError, match=f"{words}: {WHAT_TO_DO}$"):
        local_runner.run(config_from_dict(config), output)
    found = executions(output / "metadata.sqlite")
    assert (found["CorpusGen"], found["DataValidator"]) == (COMPLETE, FAILED)
    assert not {"TeacherScorer", "Distiller", "Exporter", "Evaluator", "Pusher"} & set(found)
    assert not (output / "pushed").exists()
    assert not (output / "report.html").exists()
    with pytest.raises(UserError, match=r"the run in .*out has not finished, it has no report\.json: let gemma-distill run go on in it"):
        rebuild_page(output)


def test_the_command_says_why_and_report_repeats_it(values, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values(True, **DRIFT)))

    def gemma_distill(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "gemma_tf_distill.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    # A folder that the run created is taken back; one that had something in it is not.
    (tmp_path / "out" / "logs").mkdir(parents=True)
    (tmp_path / "out" / "logs" / "run-20261127-000000.log").touch()
    done = gemma_distill("run", "config.yaml", "--output", "out")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    [line] = done.stderr.splitlines()
    assert "byte_token_fraction of held-out documents is " in line
    assert line.endswith(f"limit 0.2: {WHAT_TO_DO}")
    told = gemma_distill("report", "out")
    assert told.returncode == 2
    assert "the run in out has not finished, it has no report.json: byte_token_fraction of held-out documents is " in told.stderr
    assert told.stderr.strip().endswith(WHAT_TO_DO)
