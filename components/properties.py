"""Figures of an artifact as its properties in ML Metadata, by which lineage queries find and rank it."""

import math
from collections.abc import Mapping
from typing import Any

from tfx import types


def set_figures(artifact: types.Artifact, figures: Mapping[str, Any]) -> None:
    """Sets custom properties: `float` and `int` as what they are, what is none not at all.

    ML Metadata holds no NaN and no infinity: those become the texts `nan`, `inf` and `-inf`, so that they are seen and rank nowhere.

    Args:
      artifact: an output of an execution that has not ended.
      figures: by the name of the property.
    """
    for name, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if isinstance(value, int):
            artifact.set_int_custom_property(name, value)
        elif math.isfinite(value):
            artifact.set_float_custom_property(name, value)
        else:
            artifact.set_string_custom_property(name, str(value))


def set_training_figures(student: types.Artifact, metrics: Mapping[str, Any]) -> None:
    """Sets what a training came to, of `metrics.json`: counts of the tokens as `train_tokens` and `heldout_tokens`."""
    tokens = {f"{split}_tokens": number for split, number in metrics["tokens"].items()}
    set_figures(student, {**metrics, **tokens})
