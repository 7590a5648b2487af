"""Set-up runs with a stand-in for every tool that would change the machine."""

import pathlib
import shutil

import pytest

from tests.setup.sandbox import ROOT, Sandbox


@pytest.fixture
def sandbox(tmp_path: pathlib.Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.fixture
def checkout(sandbox: Sandbox) -> Sandbox:
    """A checkout that holds the Makefile and the scripts alone, under a name with a space."""
    folder = sandbox.folder / "a checkout"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    make = shutil.which("make")
    assert make, "this machine has no make"
    (sandbox.bin / "make").symlink_to(make)
    sandbox.folder = folder
    return sandbox
