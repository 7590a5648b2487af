"""The command that makes a run again gives the very same config."""

import json
import shlex

import pytest

from gemma_tf_distill import cli
from gemma_tf_distill.config import load_config
from gemma_tf_distill.report.command import reproduce_command


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("demo", []),
        ("quick", ["training.learning_rate=0.00001", "name=mine"]),
        (
            "demo",
            [
                "quantization.scheme=int4_block32",
                "distillation.alpha={start: 1.0, end: 0.3}",
                "quantization.overrides={embedding: int8_channel}",
            ],
        ),
        (
            "quick",
            ['corpus.source=["text:a b/*.txt", "jsonl:$HOME/\\"x\\".jsonl"]', "gates.max_regression_vs_baseline=2%", "export.prompts=[]"],
        ),
    ],
    ids=["recipe", "numbers", "sections", "quotes"],
)
def test_the_command_leads_back_to_the_config(recipe, changes):
    config = load_config(recipe, changes)
    command, note = reproduce_command(config.to_dict())
    program, *arguments = shlex.split(command.replace("\\\n", " "))
    assert program == "gemma-distill"
    options = cli._parser().parse_args(arguments)
    assert options.config == recipe
    assert load_config(options.config, options.overrides) == config
    assert len(options.overrides) == len(changes)
    assert ("what this run changed" in note) == bool(changes)


def test_a_config_far_from_every_recipe_is_run_from_its_file(tmp_path):
    config = load_config("demo").to_dict()
    config["training"] |= {"epochs": 3.5, "batch_size": 6, "log_every": 3, "checkpoint_every": 7, "warmup_fraction": 0.2}
    config["export"] |= {"context_length": 512, "max_new_tokens": 9, "parity_tokens": 99, "prompts": []}
    config |= {"seed": 7, "name": "far"}
    config["corpus"] |= {"min_characters": 3, "max_train_tokens": 999, "heldout_fraction": 0.3}
    command, note = reproduce_command(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, *arguments = shlex.split(command.replace("\\\n", " "))
    options = cli._parser().parse_args(arguments)
    assert options.config == "config.json"
    assert load_config(str(tmp_path / "config.json")).to_dict() == config
    assert "folder of this page" in note


def test_a_config_of_another_version_is_run_from_its_file():
    config = load_config("demo").to_dict() | {"retired": {"key": 1}}
    assert reproduce_command(config)[0].startswith("gemma-distill run config.json")
