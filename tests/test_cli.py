"""The command line, with a stand-in for the process that runs the pipeline (tests/pipeline/test_end_to_end.py has the real one)."""

import contextlib
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import time

import pytest

from gemma_tf_distill import cli
from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.monitoring.log_entries import rfc3339
from tests.monitoring.test_run_report import REPORT, SAMPLES
from tfx_pipeline import launcher, output_folder

PRELUDE = """
import json, os, pathlib, sys, time
from gemma_tf_distill.monitoring.progress import emit, progress
output = pathlib.Path(sys.argv[1])
"""
FINISH = f"""
emit("pipeline", nodes=["CorpusGen", "Distiller"])
for node, state in [("CorpusGen", "running"), ("CorpusGen", "cached"), ("Distiller", "running"), ("Distiller", "complete")]:
    emit("node", node=node, state=state)
print("TFX's noise")
emit("outcome", report=json.loads({json.dumps(json.dumps(REPORT))}), failures=[], samples=json.loads({json.dumps(json.dumps(SAMPLES))}))
"""


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Replaces the process that runs the pipeline by a script; the current folder is an empty one."""
    monkeypatch.chdir(tmp_path)

    def replace(script: str) -> None:
        monkeypatch.setattr(
            launcher, "_command", lambda config, folder, runner: [sys.executable, "-c", PRELUDE + script, str(folder.path), runner]
        )

    return replace


def run(capfd, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err


def assert_one_line(err: str) -> None:
    assert err.startswith("gemma-distill: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["rnu"], "invalid choice: 'rnu'"),
        (["run", "--runner", "spark"], "invalid choice: 'spark'"),
        (["run", "no-such-recipe"], "no config at 'no-such-recipe'"),
        (["run", "demo", "--set", "corpus.widow=3"], "did you mean corpus.window?"),
        (["run", "demo", "--set", "corpus.window=big"], "corpus.window must be a whole number, not 'big'"),
        (["run", "demo", "--set", "nonsense"], "--set takes section.key=value"),
        (["run", "demo", "extra"], "unrecognized arguments: extra"),
        (["run", "demo", "--image", "x"], "--image needs --runner vertex"),
        (["run", "demo", "--until", "Evaluator"], "invalid choice: 'Evaluator'"),
        (["run", "demo", "--until", "Distiller", "--runner", "vertex"], "--until needs --runner local or beam"),
        (["run", "demo", "--set", "strategy.name=multi_worker"], "run --until TeacherScorer here, and gemma-distill workers"),
        (["workers", "demo", "--examples", "nowhere", "--tokenizer", "nowhere"], "required: --output"),
        (["run", "demo", "--output", "/proc/nothing"], "can't be written to"),
        (["run", "demo", "--output", "/tmp/" + "x" * 300], "can't be used: File name too long"),
        (["run", "x" * 5000], "can't be used: File name too long"),
        (["generate", "model"], "required: PROMPT"),
        (["compare"], "required: DIR"),
        (["compare", "nowhere"], "there is no folder nowhere"),
        (["compare", "."], "is no folder of a run, which has config.json and report.json"),
        (["report", "nowhere"], "nowhere holds no finished run, it has no config.json"),
        (["generate", "model", "text", "--max-new-tokens", "0"], "must be a whole number above 0, not '0'"),
        (["generate", "model", "text", "--max-new-tokens", "many"], "must be a whole number above 0, not 'many'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(child, tmp_path, capfd, arguments, message):
    child("raise SystemExit('must not be started')")
    code, out, err = run(capfd, *arguments)
    assert code == 2
    assert out == ""
    assert_one_line(err)
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_run_shows_its_nodes_and_ends_with_the_table(child, tmp_path, capfd):
    child(FINISH)
    code, out, err = run(capfd, "run", "quick")
    assert (code, err) == (0, "")
    assert "[ 1/2] CorpusGen unchanged, taken from cache" in out
    assert "[ 2/2] Distiller done in" in out
    assert "blessed, pushed to /o/pushed/1" in out
    assert "teacher   mean of x." in out
    assert "noise" not in out
    [log] = (tmp_path / "outputs" / "quick" / "logs").iterdir()
    assert log.read_text() == "TFX's noise\n"


def test_a_stopped_run_says_how_to_go_on(child, capfd):
    child("""
emit("pipeline", nodes=["CorpusGen", "TeacherScorer"])
assert sys.argv[3:] == ["--until", "TeacherScorer"]
emit("stopped", until="TeacherScorer", folders={"tokenizer": "/o/t/1", "examples": "/o/e/2"}, seconds={})
""")
    code, out, err = run(capfd, "run", "quick", "--until", "TeacherScorer", "--set", "training.epochs=2")
    assert (code, err) == (0, "")
    assert out.endswith(
        "stopped after TeacherScorer\ntokenizer  /o/t/1\nexamples   /o/e/2\n\n"
        "to train on them, here or on a machine that they were copied to:\n"
        "  gemma-distill workers quick --set training.epochs=2 --examples /o/e/2 --tokenizer /o/t/1 --output DIR\n"
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_a_run_keeps_memory_that_it_freed(child, tmp_path, capfd):
    take_and_free = """
import resource
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes([1]) * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(pages() > 1000, pages() < 100)
"""
    child(take_and_free + FINISH)
    assert run(capfd, "run", "quick")[0] == 0
    [log] = (tmp_path / "outputs" / "quick" / "logs").iterdir()
    assert "True True" in log.read_text()


def test_json_lines_are_passed_through(child, tmp_path, capfd):
    child(FINISH)
    code, out, err = run(capfd, "run", "quick", "--log", "json", "--output", str(tmp_path / "o"))
    assert (code, err) == (0, "")
    entries = [json.loads(line) for line in out.splitlines()]
    assert [entry["event"] for entry in entries] == ["pipeline", "node", "node", "node", "node", "outcome"]
    assert entries[-1]["report"] == REPORT
    assert [entry["message"] for entry in entries][3:] == ["Distiller is running", "Distiller is done", "blessed, pushed to /o/pushed/1"]
    assert {entry["severity"] for entry in entries} == {"INFO"}
    # The file has the same events, with their times as numbers.
    events = [json.loads(line) for line in (tmp_path / "o" / "progress.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in entry.items() if name not in ("time", "severity", "message")} for entry in entries]
    assert [{name: value for name, value in event.items() if name != "time"} for event in events] == kept
    assert [rfc3339(event["time"]) for event in events] == [entry["time"] for entry in entries]


WARNING = 'from gemma_tf_distill.monitoring.progress import warn; warn("it waits for data")'


def test_quiet_is_the_outcome_and_warnings_beside_it(child, capfd):
    child(WARNING + FINISH)
    code, out, err = run(capfd, "run", "quick", "--log", "quiet")
    assert (code, err) == (0, "warning: it waits for data\n")
    assert "Distiller" not in out
    assert out.splitlines()[0].split()[0] == "parameters"
    assert "blessed, pushed to /o/pushed/1" in out


@pytest.mark.parametrize(("style", "sign"), [("text", "warning: it waits for data\n"), ("json", '"severity": "WARNING"')])
def test_a_warning_is_told_in_every_style(child, capfd, style, sign):
    child(WARNING + FINISH)
    assert sign in run(capfd, "run", "quick", "--log", style)[1]


@pytest.mark.parametrize("variable", [True, False])
def test_an_error_is_an_entry_too_where_a_log_is_written(child, capfd, monkeypatch, variable):
    child(USER_ERROR)
    if variable:
        monkeypatch.setenv("GEMMA_DISTILL_LOG", "json")
    code, out, err = run(capfd, "run", "quick", *([] if variable else ["--log", "json"]))
    assert (code, out) == (2, "")
    entry = json.loads(err)
    assert (entry["severity"], entry["event"], entry["kind"]) == ("ERROR", "error", "user")
    assert entry["message"].startswith("gemma-distill: error: the corpus is empty")


def test_the_environment_says_how_to_tell_where_no_option_does(child, capfd, monkeypatch):
    child('print("GEMMA_DISTILL_LOG" in os.environ)' + FINISH)
    monkeypatch.setenv("GEMMA_DISTILL_LOG", "json")
    assert json.loads(run(capfd, "run", "quick")[1].splitlines()[0])["event"] == "pipeline"
    # Neither this process nor the run's tells everything a second time.
    assert "GEMMA_DISTILL_LOG" not in os.environ
    [log] = pathlib.Path("outputs/quick/logs").iterdir()
    assert log.read_text() == "False\nTFX's noise\n"
    monkeypatch.setenv("GEMMA_DISTILL_LOG", "json")
    assert "[ 2/2] Distiller done in" in run(capfd, "run", "quick", "--log", "text")[1]
    monkeypatch.setenv("GEMMA_DISTILL_LOG", "loud")
    code, _, err = run(capfd, "run", "quick")
    assert code == 2
    assert_one_line(err)
    assert "GEMMA_DISTILL_LOG is 'loud' in the environment: set it to one of text, json, quiet" in err


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_reader_that_goes_away_ends_the_command_without_a_traceback(tmp_path, style):
    script = PRELUDE + 'emit("stage", stage="beginning")\nwhile True:\n    emit("stage", stage="going on"); time.sleep(0.01)'
    code = (
        "import sys; from gemma_tf_distill import cli; from tfx_pipeline import launcher;"
        f"launcher._command = lambda config, folder, runner: [sys.executable, '-c', {script!r}, str(folder.path)];"
        f"sys.exit(cli.main(['run', 'quick', '--output', 'o', '--log', '{style}']))"
    )
    command = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert command.stdout is not None
    assert "beginning" in command.stdout.readline()
    command.stdout.close()
    assert command.stderr is not None
    assert command.stderr.read() == ""
    assert command.wait(60) == 141


def test_a_model_that_is_not_blessed_has_an_exit_code_of_its_own(child, capfd):
    child(FINISH.replace('\\"blessed\\": true', '\\"blessed\\": false').replace("failures=[]", 'failures=["too bad"]') + "sys.exit(3)")
    code, out, err = run(capfd, "run", "quick")
    assert (code, err) == (3, "")
    assert "not blessed, and so not pushed:\n  too bad" in out


USER_ERROR = """
(output / "metadata.sqlite").write_text("half")
emit("error", kind="user", message="the corpus is empty: corpus.source 'text:x' holds no documents")
sys.exit(2)
"""


def test_a_mistake_that_only_the_run_finds_leaves_nothing(child, tmp_path, capfd):
    child(USER_ERROR)
    code, _, err = run(capfd, "run", "quick")
    assert code == 2
    assert_one_line(err)
    assert "the corpus is empty" in err
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_does_not_cost_an_earlier_run(child, tmp_path, capfd):
    (tmp_path / "o" / "logs").mkdir(parents=True)
    child(USER_ERROR)
    assert run(capfd, "run", "quick", "--output", "o")[0] == 2
    assert (tmp_path / "o" / "logs").is_dir()


def test_a_mistake_that_is_found_after_training_does_not_cost_the_student(child, tmp_path, capfd):
    child('emit("node", node="Distiller", state="complete")' + USER_ERROR)
    code, _, err = run(capfd, "run", "quick")
    assert code == 2
    assert_one_line(err)
    assert (tmp_path / "outputs" / "quick" / "metadata.sqlite").exists()


def test_a_failure_names_the_last_error_and_the_log(child, tmp_path, capfd):
    child('emit("error", kind="failure", message="ValueError: shapes differ"); sys.exit(1)')
    code, _, err = run(capfd, "run", "quick")
    assert code == 1
    assert_one_line(err)
    assert "ValueError: shapes differ" in err
    assert str(tmp_path / "outputs" / "quick" / "logs" / "run-") in err


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL: was there enough memory?"),
        ("os._exit(7)", "exit code 7"),
        ("sys.exit(0)", "exit code 0"),
    ],
)
def test_a_run_that_ends_without_a_word_is_a_failure(child, capfd, script, message):
    child(script)
    code, _, err = run(capfd, "run", "quick")
    assert code == 1
    assert_one_line(err)
    assert message in err


def test_the_runner_and_the_environment_reach_the_run(child, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    child('print(sys.argv[2], os.environ["KERAS_BACKEND"], os.environ["GEMMA_DISTILL_PROGRESS"])' + FINISH)
    assert run(capfd, "run", "quick", "--runner", "beam", "--output", "o")[0] == 0
    [log] = (tmp_path / "o" / "logs").iterdir()
    assert log.read_text().splitlines()[0].split() == ["beam", "tensorflow", str(tmp_path / "o" / "progress.jsonl")]


@pytest.mark.parametrize(("style", "lines"), [("json", ["wrote x", "submitted y"]), ("quiet", None), ("text", None)])
def test_a_job_for_vertex_is_told_in_every_style(capfd, monkeypatch, style, lines):
    done = subprocess.CompletedProcess([], 0, "wrote x\nsubmitted y\n", "")
    monkeypatch.setattr(cli.subprocess, "run", lambda *command, **options: done)
    code, out, err = run(capfd, "run", "quick", "--runner", "vertex", "--log", style)
    assert (code, err) == (0, "")
    if lines is None:
        assert out == done.stdout
    else:
        assert [json.loads(line)["message"] for line in out.splitlines()] == lines


STUBBORN = """
import signal, subprocess
signal.signal(signal.SIGINT, signal.SIG_IGN)
below = subprocess.Popen(["sleep", "600"])
(output / "pids").write_text(f"{os.getpid()} {below.pid}")
time.sleep(600)
"""


def wait_for(path: pathlib.Path) -> list[int]:
    for _ in range(200):
        if path.exists() and path.read_text():
            return [int(pid) for pid in path.read_text().split()]
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_command_ends_all_that_it_started(tmp_path, number):
    # The real child's watch over its standard input is needed for SIGKILL, which the command can't answer.
    script = PRELUDE + "from tfx_pipeline.local_runner import _exit_with_parent; _exit_with_parent()" + STUBBORN
    code = (
        # Where the tests run in the background of a script, SIGINT is ignored, and that is inherited.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import sys; from gemma_tf_distill import cli; from tfx_pipeline import launcher;"
        f"launcher._command = lambda config, folder, runner: [sys.executable, '-c', {script!r}, str(folder.path)];"
        "sys.exit(cli.main(['run', 'quick', '--output', 'o']))"
    )
    command = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    pids = wait_for(tmp_path / "o" / "pids")
    command.send_signal(number)
    _, err = command.communicate(timeout=30)
    assert command.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert "run goes on from there" in err
    for _ in range(100):
        if not any(map(alive, pids)):
            break
        time.sleep(0.1)
    assert not any(map(alive, pids))
    assert (tmp_path / "o").is_dir()  # For the next run to go on from.


CLAIM = """
import pathlib, time
from tfx_pipeline.output_folder import OutputFolder
with OutputFolder(pathlib.Path("o")).claim():
    print("claimed", flush=True)
    time.sleep(60)
"""


def test_two_runs_in_one_folder_are_one_too_many(child, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(output_folder, "_LOCK_SECONDS", 0.2)
    command = subprocess.Popen([sys.executable, "-c", CLAIM], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert command.stdout is not None
        assert command.stdout.readline() == "claimed\n"
        child(FINISH)
        code, _, err = run(capfd, "run", "quick", "--output", "o")
    finally:
        command.kill()
        command.communicate()
    assert code == 2
    assert_one_line(err)
    assert "another run is using" in err
    assert run(capfd, "run", "quick", "--output", "o")[0] == 0


class Parrot:
    format, context_length = "saved_model", 64

    def __init__(self, path: str):
        self.path = path

    def generate(self, prompt: str, max_new_tokens: int):
        from gemma_tf_distill.export.generation import Completion

        def pieces():
            for piece in (" mean", f" of {max_new_tokens} values."):
                completion.count()
                yield piece

        os.write(2, b"I0000 noise of a C++ library\n")
        completion = Completion(3)
        completion.pieces = pieces()
        return completion


def test_generate_prints_prompt_and_completion_and_beside_them_how_fast(monkeypatch, capfd):
    from gemma_tf_distill.export import generation

    monkeypatch.setattr(generation, "load_generator", Parrot)
    code, out, err = run(capfd, "generate", "model", "Returns the", "--max-new-tokens", "5")
    assert (code, out) == (0, "Returns the mean of 5 values.\n")
    assert re.fullmatch(r"2 tokens after 3 of the prompt, the first in \d+\.\d\d s, \d+\.\d tokens/s\n", err)


def test_generate_tells_what_is_wrong_with_a_model(capfd, tmp_path):
    code, out, err = run(capfd, "generate", str(tmp_path / "none"), "Returns the")
    assert (code, out) == (2, "")
    assert_one_line(err)
    assert "no model at" in err


def test_generate_shows_the_noise_where_something_unexpected_happens(monkeypatch, capfd):
    from gemma_tf_distill.export import generation

    def fail(path: str):
        os.write(2, b"noise that explains it\n")
        raise ZeroDivisionError

    monkeypatch.setattr(generation, "load_generator", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["generate", "model", "text"])
    assert "noise that explains it" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_doctors_verdict_is_the_exit_code(monkeypatch, capfd, arguments):
    from gemma_tf_distill import doctor

    monkeypatch.setattr(doctor, "main", lambda as_json: 1 if as_json else 0)
    assert run(capfd, "doctor", *arguments)[0] == len(arguments)


def test_user_errors_of_any_kind_and_many_lines_become_one(monkeypatch, capfd):
    def fail(options):
        raise WeightsError("first\n  second")

    monkeypatch.setattr(cli, "_doctor", fail)
    code, _, err = run(capfd, "doctor")
    assert (code, err) == (2, "gemma-distill: error: first second\n")


def test_compare_prints_a_table_or_json(tmp_path, capfd):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(REPORT))
    code, out, err = run(capfd, "compare", str(folder))
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["teacher", "gguf:package"], ["mine:", "control"], ["mine", "3.497"]]
    code, out, err = run(capfd, "compare", str(folder), "--json")
    assert (code, err) == (0, "")
    assert [model["kind"] for model in json.loads(out)["models"]] == ["teacher", "control", "given"]
