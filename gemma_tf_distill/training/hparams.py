"""A run's hyperparameters for TensorBoard's HParams plugin, which puts runs beside each other."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from tensorboard.plugins.hparams import api

from gemma_tf_distill.config import DistillationConfig, QuantizationConfig, TrainingConfig
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.training.heldout import HELDOUT_SCALARS
from gemma_tf_distill.training.run import Run

Value = bool | int | float | str


def hyperparameters(
    run: Run, student: Gemma, training: TrainingConfig, distillation: DistillationConfig, quantization: QuantizationConfig | None
) -> dict[str, Value]:
    """What decides how a student turns out, by the config's keys; what is no scalar as JSON.

    Returns:
      `run`, `student.…` (layers, hidden size, words, parameters), `training.…`, `distillation.…` of a run that learns from its teacher, and
      `quantization.…` where there is one.
    """
    sizes = student.backbone
    found: dict[str, Any] = {
        "run": run.name,
        "student.layers": sizes.num_layers,
        "student.hidden_dim": sizes.hidden_dim,
        "student.vocabulary": sizes.vocabulary_size,
        "student.parameters": student.parameters,
    }
    sections: dict[str, Any] = {"training": training}
    if run.learn_from_teacher:
        sections["distillation"] = distillation
    if quantization is not None:
        sections["quantization"] = quantization
    for section, config in sections.items():
        found |= _flat(section, dataclasses.asdict(config))
    return found


def write_hyperparameters(values: dict[str, Value], names: Iterable[str]) -> None:
    """Writes them to the current summary writer as one session, whose metrics are the held-out figures.

    Args:
      values: of this run.
      names: of what any run beside it may have: TensorBoard shows the columns that the first one of them names.
    """
    metrics = [api.Metric(name, display_name=words) for name, words in HELDOUT_SCALARS.items()]
    api.hparams_config(hparams=[api.HParam(name) for name in names], metrics=metrics)
    api.hparams(values, trial_id=str(values["run"]))


def _flat(prefix: str, section: dict[str, Any]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in section.items():
        key = f"{prefix}.{name}"
        if isinstance(value, dict) and value:
            found |= _flat(key, value)
        else:
            found[key] = value if isinstance(value, Value) else "none" if value is None else json.dumps(value)
    return found
