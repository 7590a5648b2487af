"""What the training split's targets depend on, so far as the config and the files that it names tell."""

import hashlib
from collections.abc import Mapping
from typing import Any

from gemma_tf_distill.config import Config
from gemma_tf_distill.gemma.vocabulary import Vocabulary
from gemma_tf_distill.teacher.target_store import TargetAddress


def target_address(config: Config, corpus_fingerprint: str, teacher_fingerprint: str) -> dict[str, Any]:
    """The address of the training split's targets, without the tokenizer, which is made only when the pipeline runs."""
    distillation = config.distillation
    sampled = distillation.targets == "sampled"
    corpus = hashlib.sha256(f"{config.to_json('corpus')} {corpus_fingerprint}".encode()).hexdigest()
    return {
        "teacher": f"{config.teacher.source} {config.teacher.dtype} {hashlib.sha256(teacher_fingerprint.encode()).hexdigest()}",
        "corpus": corpus,
        "kind": distillation.targets,
        "words": distillation.draws if sampled else distillation.top_k,
        "least_probability": distillation.least_probability if distillation.targets == "top_k" else 0.0,
        "temperature": distillation.stored_temperature,
    }


def whole_address(parts: Mapping[str, Any], vocabulary: Vocabulary) -> TargetAddress:
    """The address with the sha256 of the student's tokenizer."""
    return TargetAddress(**parts, tokenizer=hashlib.sha256(vocabulary.proto).hexdigest())
