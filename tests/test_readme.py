"""What the README shows is accepted by the real parsers; its Python runs."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from gemma_tf_distill.cli import _parser
from gemma_tf_distill.config import config_from_dict

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(".venv/bin/gemma-distill")])
def test_every_command_is_one(command):
    options = _parser().parse_args(shlex.split(command)[1:])
    assert callable(options.function)


@pytest.mark.parametrize("target", sorted({c.split()[1] for c in COMMANDS if c.startswith("make ")}))
def test_every_make_target_is_there(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_config_is_one(text):
    assert config_from_dict(yaml.safe_load(text)).name == "mine"


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2.0 ")


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link
