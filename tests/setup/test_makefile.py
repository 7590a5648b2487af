"""The Makefile and .ci/run, with a stand-in for scripts/setup.sh and for the commands of the environment that it builds."""

import os
import re
import shutil

import pytest

from tests.setup.sandbox import ROOT, Sandbox

PYTEST = "python -m pytest --numprocesses 2 --dist loadfile"
SESSIONS = [f"{PYTEST} {rooms}" for rooms in re.findall(r'^  "(tests/.*)"$', (ROOT / "scripts" / "test.sh").read_text(), re.MULTILINE)]


@pytest.fixture
def made(checkout: Sandbox) -> Sandbox:
    """A checkout whose setup.sh is a stand-in, which makes a `.venv` whose commands are stand-ins too."""
    for name in ("python", "gemma-distill", "ruff", "mypy", "tensorboard"):
        checkout.stand_in(name, path=checkout.folder / "built" / name)
    checkout.stand_in("setup", "mkdir -p .venv/bin; cp built/* .venv/bin/", path=checkout.folder / "scripts" / "setup.sh")
    return checkout


def test_set_up_runs_once_and_again_when_what_it_installs_has_changed(made):
    for _ in range(2):
        assert made.run("make", "setup").returncode == 0
    assert made.calls("setup") == ["setup"]
    for name in ("pyproject.toml", "constraints.txt", "scripts/glibc.sh"):
        before = len(made.calls("setup"))
        stamp = (made.folder / ".venv" / ".setup-done").stat().st_mtime
        os.utime(made.folder / name, (stamp + 10, stamp + 10))
        made.run("make", "setup")
        assert len(made.calls("setup")) == before + 1, name
        os.utime(made.folder / name, (stamp - 10, stamp - 10))


def test_a_set_up_that_failed_is_not_taken_for_done(made):
    script = (made.folder / "scripts" / "setup.sh").read_text()
    made.stand_in("setup", "mkdir -p .venv/bin; exit 2", path=made.folder / "scripts" / "setup.sh")
    assert made.run("make", "test").returncode != 0
    assert made.calls() == ["setup"], "tests ran in a half-built environment"
    (made.folder / "scripts" / "setup.sh").write_text(script)
    assert made.run("make", "test").returncode == 0
    assert made.calls() == ["setup", "setup", *SESSIONS]


@pytest.mark.parametrize(
    ("target", "commands"),
    [
        ("demo", ["gemma-distill run demo"]),
        ("quick", ["gemma-distill run quick"]),
        ("doctor", ["gemma-distill doctor"]),
        ("test", SESSIONS),
        ("lint", ["ruff check .", "ruff format --check .", "mypy"]),
        ("format", ["ruff check --fix .", "ruff format ."]),
        ("tensorboard", ["tensorboard --logdir outputs/demo"]),
    ],
)
def test_every_target_does_its_own_set_up(made, target, commands):
    done = made.run("make", target)
    assert done.returncode == 0, done.stderr
    assert made.calls() == ["setup", *commands]


def test_arguments_reach_the_command(made):
    assert made.run("make", "demo", "ARGS=--runner beam").returncode == 0
    assert made.calls("gemma-distill") == ["gemma-distill run demo --runner beam"]


def test_every_folder_of_tests_is_in_one_session():
    named = sorted(path for session in SESSIONS for path in session.removeprefix(PYTEST).split())
    folders = {f"tests/{path.parent.relative_to(ROOT / 'tests').parts[0]}" for path in ROOT.glob("tests/*/**/test_*.py")}
    assert named == sorted({*folders, "tests/test_*.py"})


def test_tests_that_are_named_run_in_one_session(made):
    (made.folder / "tests").mkdir()
    (made.folder / "tests" / "test_one.py").touch()
    assert made.run("make", "test", "ARGS=-x tests/test_one.py::test_it").returncode == 0
    assert made.calls("python") == [f"{PYTEST} -x tests/test_one.py::test_it"]


@pytest.mark.parametrize(
    ("codes", "expected"), [((0, 0, 0), 0), ((5, 0, 5), 0), ((0, 1, 0), 1), ((1, 5, 0), 1), ((2, 1, 0), 2), ((5, 5, 5), 5)]
)
def test_a_session_that_fails_or_selects_nothing_does_not_keep_the_others_from_running(made, codes, expected):
    # The nth call ends with the nth code.
    ends = f'codes=({" ".join(map(str, codes))}); exit "${{codes[$(grep -c ^python "{made.log}") - 1]}}"'
    made.stand_in("python", ends, path=made.folder / "built" / "python")
    (made.bin / "grep").symlink_to(shutil.which("grep"))
    assert made.run("make", "setup").returncode == 0
    assert made.run("bash", "scripts/test.sh").returncode == expected
    assert made.calls("python") == SESSIONS


def test_docker_takes_extras_and_an_empty_list_of_them(made):
    made.stand_in("docker")
    for arguments in ([], ["EXTRAS=demo,tpu"], ["EXTRAS="]):
        assert made.run("make", "docker", *arguments).returncode == 0
    assert made.calls() == [
        "docker build -t gemma-tf-distill .",
        "docker build -t gemma-tf-distill --build-arg EXTRAS=demo,tpu .",
        "docker build -t gemma-tf-distill --build-arg EXTRAS= .",
    ]


def test_make_alone_lists_every_target(made):
    listed = re.findall(r"^  make ([a-z]+) ", made.run("make").stdout, re.MULTILINE)
    assert listed == re.findall(r"^\.PHONY: ([a-z]+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert made.calls() == []


def test_ci_sets_up_lints_and_tests_and_stops_at_the_first_failure(made):
    shutil.copytree(ROOT / ".ci", made.folder / ".ci")
    made.stand_in("chromium")
    assert made.run("bash", ".ci/run").returncode == 0
    assert made.calls() == ["setup", "ruff check .", "ruff format --check .", "mypy", *SESSIONS]
    made.log.write_text("")
    made.stand_in("mypy", "exit 1", path=made.folder / ".venv" / "bin" / "mypy")
    assert made.run("bash", ".ci/run").returncode != 0
    assert made.calls("python") == []


def test_ci_installs_the_browser_that_a_machine_lacks(made):
    shutil.copytree(ROOT / ".ci", made.folder / ".ci")
    made.stand_in("apt-get")
    assert made.run("bash", ".ci/run").returncode == 0
    assert made.calls("apt-get") == ["apt-get update -q", "apt-get install -q -y --no-install-recommends chromium"]
