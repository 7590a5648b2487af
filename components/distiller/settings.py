"""What training depends on: the Distiller's `config`, and the same for whoever trains on its inputs elsewhere."""

import json
from collections.abc import Mapping
from typing import Any

from components.teacher_scorer.address import target_address
from gemma_tf_distill.config import Config


def distiller_config(config: Config, corpus_fingerprint: str, teacher_fingerprint: str) -> str:
    """What training depends on, as the component's `config`; arguments as of `teacher_scorer_config`."""
    return training_settings(config, target_address(config, corpus_fingerprint, teacher_fingerprint))


def training_settings(config: Config, address: Mapping[str, Any]) -> str:
    """The same for targets whose address, without the tokenizer, is known."""
    sections = json.loads(config.to_json("student", "attention", "distillation", "training", "strategy", "xla"))
    sections["student"].pop("vocabulary")
    # Where compiled programs are kept changes nothing about them.
    sections["xla"].pop("cache_dir")
    teacher = {"teacher": config.teacher.source, "teacher_dtype": config.teacher.dtype, "address": dict(address)}
    return json.dumps({**sections, **teacher, "seed": config.seed, "window": config.corpus.window}, sort_keys=True)
