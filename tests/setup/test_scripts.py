"""scripts/uv.sh and scripts/setup.sh: what they call, in which order, and what they say where it fails."""

import shutil
import subprocess

import pytest

from tests.setup.sandbox import Sandbox


def test_uv_of_the_machine_is_used(checkout):
    checkout.stand_in("uv")
    checkout.stand_in("python3")
    assert checkout.run("bash", "scripts/uv.sh", "cache", "dir").returncode == 0
    assert checkout.calls() == ["uv --version", "uv cache dir"]
    assert not (checkout.folder / ".tools").exists()


def test_a_missing_or_broken_uv_is_installed_once_beside_the_checkout(checkout):
    checkout.stand_in("uv", "echo no such version >&2; exit 127")
    checkout.stand_in("uv-of-pip", path=checkout.folder / "wheel" / "uv")
    # pip install --quiet --target FOLDER uv
    checkout.stand_in("python3", 'if [ "$3" = install ]; then mkdir -p "$6/bin"; cp wheel/uv "$6/bin/uv"; fi')
    for _ in range(2):
        done = checkout.run("bash", "scripts/uv.sh", "venv", "with space")
        assert done.returncode == 0, done.stderr
    assert len(checkout.calls("python3 -m pip install")) == 1
    assert checkout.calls("uv-of-pip venv") == ["uv-of-pip venv with space"] * 2


def test_without_uv_and_pip_it_says_what_to_install(checkout):
    checkout.stand_in("python3", "exit 1")
    done = checkout.run("bash", "scripts/uv.sh", "--version")
    assert done.returncode == 2
    assert "apt-get install python3-pip" in done.stderr


@pytest.fixture
def scripted(checkout: Sandbox) -> Sandbox:
    """A checkout whose set-up calls stand-ins for uv and glibc.sh; the one for uv makes a `.venv` with a Python that agrees."""
    python = f'#!{shutil.which("bash")}\\nif [ "$1" = --version ]; then echo Python 3.11.9; fi\\n'
    checkout.stand_in("glibc", path=checkout.folder / "scripts" / "glibc.sh")
    checkout.stand_in(
        "uv",
        f"""case "$1" in
  cache) echo "$HOME/cache" ;;
  venv) mkdir -p .venv/bin; printf '{python}' >.venv/bin/python; chmod +x .venv/bin/python ;;
esac""",
        path=checkout.folder / "scripts" / "uv.sh",
    )
    (checkout.bin / "chmod").symlink_to(shutil.which("chmod") or "")
    return checkout


def set_up(sandbox: Sandbox, *steps: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return sandbox.run("bash", "scripts/setup.sh", *steps, **variables)


def test_setup_builds_the_environment_and_forgets_what_uv_knew_of_the_interpreter(scripted):
    stale = scripted.folder / "cache" / "interpreter-v5"
    kept = scripted.folder / "cache" / "wheels-v8"
    stale.mkdir(parents=True)
    kept.mkdir()
    done = set_up(scripted)
    assert done.returncode == 0, done.stderr
    assert (stale.exists(), kept.exists()) == (False, True)
    assert scripted.calls() == [
        "glibc",
        "uv cache dir",
        "uv venv --quiet --python 3.11 .venv",
        "uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --requirement pyproject.toml --extra dev",
        "uv pip install --quiet --python .venv/bin/python --no-deps --editable .",
    ]
    assert all(line.startswith("setup: ") for line in done.stdout.splitlines())


def test_setup_keeps_a_fitting_venv_and_replaces_another(scripted):
    set_up(scripted)
    (scripted.folder / ".venv" / "mine").touch()
    set_up(scripted)
    assert (scripted.folder / ".venv" / "mine").exists()
    scripted.stand_in("python", "exit 1", path=scripted.folder / ".venv" / "bin" / "python")
    set_up(scripted)
    assert not (scripted.folder / ".venv" / "mine").exists()
    assert len(scripted.calls("uv venv")) == 2


@pytest.mark.parametrize(
    ("extras", "arguments", "needs_glibc"),
    [("demo,vertex", "--extra demo --extra vertex", True), ("litert", "--extra litert", False), ("", "", False)],
)
def test_setup_takes_extras_and_asks_for_a_new_glibc_only_with_tfx(scripted, extras, arguments, needs_glibc):
    assert set_up(scripted, "packages", EXTRAS=extras).returncode == 0
    (install,) = scripted.calls("uv pip install")
    assert install.endswith(f"--requirement pyproject.toml {arguments}".strip())
    assert (scripted.calls("glibc") == ["glibc"]) == needs_glibc


def test_setup_of_a_tpu_vm_takes_tensorflow_tpu_in_place_of_tensorflow(scripted):
    done = set_up(scripted, "packages", TENSORFLOW="tpu", EXTRAS="")
    assert done.returncode == 0, done.stderr
    (install,) = scripted.calls("uv pip install")
    assert "--constraint .venv/constraints-tpu.txt --requirement pyproject.toml" in install
    assert install.endswith("--override scripts/tensorflow-tpu.txt tensorflow-tpu")
    before, after = ((scripted.folder / name).read_text().splitlines() for name in ("constraints.txt", ".venv/constraints-tpu.txt"))
    gone = {line.split("==")[0] for line in {*before} - {*after}}
    assert gone == {"tensorflow", "tensorflow-text", "tf-keras", "tensorboard", "libtpu"}


@pytest.mark.parametrize("variables", [{"TENSORFLOW": "gpu", "EXTRAS": ""}, {"TENSORFLOW": "tpu", "EXTRAS": "dev"}])
def test_setup_refuses_another_tensorflow_and_extras_that_need_the_plain_one(scripted, variables):
    done = set_up(scripted, "packages", **variables)
    assert done.returncode == 2
    assert "(TENSORFLOW=tpu EXTRAS= make setup)" in done.stderr


@pytest.mark.parametrize(
    ("command", "reason"), [("venv", "no Python 3.11"), ("pip", "apt-get install g++")], ids=["no Python", "no compiler"]
)
def test_setup_says_what_to_do_where_uv_fails(scripted, command, reason):
    uv = scripted.folder / "scripts" / "uv.sh"
    uv.write_text(uv.read_text().replace('case "$1" in', f'if [ "$1" = {command} ]; then exit 1; fi\ncase "$1" in'))
    done = set_up(scripted)
    assert done.returncode == 2
    assert reason in done.stderr


def test_setup_refuses_a_step_that_it_does_not_know(scripted):
    done = set_up(scripted, "everything")
    assert done.returncode == 2
    assert "'everything' is no step" in done.stderr
    assert scripted.calls() == []
