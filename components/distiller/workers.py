"""The Distiller's work on each host of a cluster, or on a TPU VM: folders in, folders out, without TFX or Beam."""

import dataclasses
import hashlib
import json
import os
from typing import Any

from components.digest import source_digest
from components.distiller.distil import distil
from components.distiller.settings import training_settings
from components.teacher_scorer.address import target_address
from gemma_tf_distill.config import Config
from gemma_tf_distill.teacher.target_store import TargetStore


def train_on_folders(config: Config, examples: str, tokenizer: str, output: str) -> dict[str, Any]:
    """Trains the student of a config, and the control where it asks for one, on what TeacherScorer made on another machine.

    Args:
      config: the one that the windows were scored by; a key that changes the targets changes nothing here but is refused.
      examples: folder of the scored windows, local or anything that `tf.io.gfile` opens.
      tokenizer: folder of the student's vocabulary.
      output: gets `student/`, `control/`, `metrics.json`, `tensorboard/`, and `checkpoints/` until it is done. With several hosts a folder
        that all of them share.

    Returns:
      The figures of `metrics.json`; empty where this process is not the chief.

    Raises:
      UserError: as of `make_strategy` and `distil`.
    """
    settings = training_settings(config, _address(config, TargetStore(examples)))
    key = hashlib.sha256(json.dumps([settings, source_digest("components.distiller.distil")]).encode()).hexdigest()[:16]
    return distil(
        examples_uri=examples,
        tokenizer_uri=tokenizer,
        student_uri=output,
        tensorboard_uri=os.path.join(output, "tensorboard"),
        config=settings,
        source_digest="",
        checkpoints=os.path.join(output, "checkpoints", key),
    )


def _address(config: Config, store: TargetStore) -> dict[str, Any]:
    """What the targets must be of, as far as the config tells: the corpus is not here, and a copied teacher has another path and time."""
    wanted = target_address(config, "", "")
    found = dataclasses.asdict(store.address)
    source = config.teacher.source
    named = source.startswith("preset:") or source == "gguf:package"
    same_name = found["teacher"].startswith(f"{source} {config.teacher.dtype} ")
    return {**wanted, "corpus": found["corpus"], "teacher": found["teacher"] if same_name or not named else wanted["teacher"]}
