"""constraints.txt, the wheel, and pytest's settings in pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.setup.sandbox import ROOT

WARN = """\
import warnings


def warn():
    warnings.warn("noise", FutureWarning)
"""
TEST = """\
import warnings

from {package} import noisy


def test_noise():
    noisy.warn()
    warnings.warn("a test may warn")
"""


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_constraints_pin_everything_that_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins()
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}
    for group, requirements in groups.items():
        for requirement in map(Requirement, requirements):
            name = canonicalize_name(requirement.name)
            if name != project["name"]:
                assert requirement.specifier.contains(pinned[name]), f"{group}: {requirement} is pinned to {pinned[name]}: make constraints"
    assert project["name"] not in pinned


def test_constraints_hold_versions_alone():
    text = (ROOT / "constraints.txt").read_text()
    assert "make constraints" in text.splitlines()[1]
    assert not re.search(r"://|--|@|sha256", text)
    assert all(re.fullmatch(r"[a-z0-9.+!]+", version) for version in pins().values())


def test_warnings_of_this_projects_modules_are_errors_and_others_are_not(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    for package in ("components", "gemma_tf_distill", "tfx_pipeline", "components_of_others"):
        folder = tmp_path / "lib" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "noisy.py").write_text(WARN)
        (tmp_path / "tests" / f"test_{package}.py").write_text(TEST.format(package=package))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "lib")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    outcome = dict(reversed(line.split(" ")[:2]) for line in done.stdout.splitlines() if line.startswith(("PASSED", "FAILED")))
    assert outcome == {
        "tests/test_components.py::test_noise": "FAILED",
        "tests/test_gemma_tf_distill.py::test_noise": "FAILED",
        "tests/test_tfx_pipeline.py::test_noise": "FAILED",
        "tests/test_components_of_others.py::test_noise": "PASSED",
    }, done.stdout


def test_the_wheel_holds_the_three_packages_and_the_recipes(tmp_path):
    for name in ("components", "gemma_tf_distill", "tfx_pipeline", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    packages = ("components", "gemma_tf_distill", "tfx_pipeline")
    expected = {str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py")}
    recipes = {str(path.relative_to(ROOT)) for path in (ROOT / "tfx_pipeline" / "configs").glob("*.yaml")}
    assert {"tfx_pipeline/configs/demo.yaml", "tfx_pipeline/configs/quick.yaml"} <= recipes
    assert held == expected | recipes
