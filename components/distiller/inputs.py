"""What training reads, whether in float or for a scheme's integers."""

import dataclasses
import hashlib
import json
import os
from typing import Any

import tensorflow as tf

from components.artifact_files import METRICS_FILE
from components.teacher_scorer.address import whole_address
from gemma_tf_distill.config import DistillationConfig, TrainingConfig
from gemma_tf_distill.data.batches import evaluation_batches
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.export.files import write_bytes
from gemma_tf_distill.gemma.vocabulary import Vocabulary
from gemma_tf_distill.teacher.target_store import TargetStore


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """Scored windows, found to be of this corpus and teacher.

    Attributes:
      vocabulary: the student's.
      store: the windows of the training split, with what is stored of the teacher.
      files: its shards.
      heldout: batches of the held-out split.
      batch_size: windows a batch.
      seed: of the training split's order.
    """

    vocabulary: Vocabulary
    store: TargetStore
    files: list[str]
    heldout: tf.data.Dataset
    batch_size: int
    seed: int

    @classmethod
    def open(
        cls, examples_uri: str, tokenizer_uri: str, settings: dict[str, Any], training: TrainingConfig, distillation: DistillationConfig
    ) -> "TrainingInputs":
        """Opens the artifacts of CorpusGen and TeacherScorer.

        Args:
          examples_uri: windows with the teacher's targets.
          tokenizer_uri: the student's vocabulary.
          settings: `address`, `seed` and `window`, as `distiller_config` gives them.
          training: its batch size counts.
          distillation: how many of the teacher's words the held-out windows have.

        Raises:
          ConfigError: if there are fewer windows than a batch takes.
          TargetsError: if the targets are damaged, or of something else than the address says.
        """
        vocabulary = Vocabulary.load(tokenizer_uri)
        store = TargetStore(examples_uri, whole_address(settings["address"], vocabulary))
        if training.batch_size > store.windows:
            raise ConfigError(
                f"training.batch_size is {training.batch_size}, but there are {store.windows} windows: choose at most as many"
            )
        heldout = evaluation_batches(
            store.heldout_files(), window=settings["window"], top_k=distillation.top_k, batch_size=training.batch_size
        )
        return cls(vocabulary, store, store.files(), heldout, training.batch_size, settings["seed"])

    def batches(self, skip: int, context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """Training batches without the first `skip`, as `fit` takes them."""
        return self.store.batches(self.files, batch_size=self.batch_size, seed=self.seed, skip=skip, context=context)


def checkpoint_folder(artifact_uri: str, *depends_on: str) -> str:
    """Where checkpoints lie: beside the artifacts of all executions, under a name made of everything that the training depends on.

    An execution that was killed is resumed by the next one, and another config never picks its checkpoints up.
    """
    key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]
    return os.path.join(os.path.dirname(os.path.dirname(artifact_uri.rstrip("/"))), "checkpoints", key)


def write_metrics(student_uri: str, metrics: dict[str, Any]) -> None:
    """Writes what a training came to, beside the student."""
    write_bytes(os.path.join(student_uri, METRICS_FILE), json.dumps(metrics, indent=2).encode())


def remove_folder(folder: str) -> None:
    """Removes a folder, where there is one: a run shorter than `training.checkpoint_every` has no checkpoints."""
    if tf.io.gfile.exists(folder):
        tf.io.gfile.rmtree(folder)
