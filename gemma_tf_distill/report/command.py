"""The command that runs a config again."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from gemma_tf_distill.config import load_config, recipes
from gemma_tf_distill.errors import ConfigError

_MOST_CHANGES = 12


def reproduce_command(config: Mapping[str, Any]) -> tuple[str, str]:
    """A command that runs the same config: a recipe with the keys that differ, where few do, or else the config that the run stored.

    Args:
      config: the whole config.

    Returns:
      The command, and what to know about it.
    """
    best: list[str] | None = None
    name = ""
    for recipe in recipes():
        changes = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in _changes(load_config(recipe).to_dict(), config)]
        if (best is None or len(changes) < len(best)) and _same(recipe, changes, config):
            best, name = changes, recipe
    output = f"outputs/{config['name']}-again"
    if best is None or len(best) > _MOST_CHANGES:
        command = ["gemma-distill run config.json", f"--output {shlex.quote(output)}"]
        note = "To be run in the folder of this page, whose config.json is the whole config. "
    else:
        command = [f"gemma-distill run {name}", *(f"--set {shlex.quote(change)}" for change in best), f"--output {shlex.quote(output)}"]
        note = f"{name} is a recipe that is shipped. " if not best else f"The recipe {name} with what this run changed of it. "
    note += "With the packages below Lineage and the same corpus, windows, batches and first weights are the same."
    return " \\\n  ".join(command), note


def _changes(recipe: Any, config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(recipe, Mapping) and isinstance(config, Mapping) and (not prefix or recipe.keys() == config.keys()):
        for key in sorted({*recipe, *config}):
            yield from _changes(recipe.get(key), config.get(key), f"{prefix}.{key}" if prefix else key)
    elif recipe != config:
        yield prefix, config


def _same(recipe: str, changes: list[str], config: Mapping[str, Any]) -> bool:
    try:
        return load_config(recipe, changes).to_dict() == config
    except ConfigError:  # A config of another version, whose keys are no longer these.
        return False
