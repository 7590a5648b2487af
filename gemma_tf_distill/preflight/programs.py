"""What a TPU would run, as functions of weights that need not exist: the training step and the teacher's scorer."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from gemma_tf_distill.config import AttentionConfig, DistillationConfig, TrainingConfig
from gemma_tf_distill.gemma.abstract import without_values
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.teacher.targets import TargetScorer
from gemma_tf_distill.training.optimizers import make_optimizer
from gemma_tf_distill.training.trainer import DistillationTrainer

# What schedules are measured by does not change what a step costs.
_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of tensors alone.

    Attributes:
      function: a `tf.function` of `specs`, one after the other, to be compiled by XLA.
      specs: of its arguments.
      kinds: what each argument is: `weights`, `optimizer`, `teacher` or `batch`.
      updated: how many arguments from the first on are given back by the first results, and can be written over.
    """

    function: Any
    specs: Sequence[tf.TensorSpec]
    kinds: Sequence[str]
    updated: int


def training_program(
    student: Gemma,
    teacher: Gemma | None,
    *,
    training: TrainingConfig,
    distillation: DistillationConfig,
    windows: int,
    window: int,
    seed: int = 0,
    attention: AttentionConfig | None = None,
) -> Program:
    """One training step of a replica, its update included, without what replicas tell each other.

    Args:
      student: abstract.
      teacher: abstract and over the student's vocabulary; none where the step reads stored targets.
      training: accumulation, checkpointing, clipping and the optimizer.
      distillation: what is learned from.
      windows: of the replica's share of a batch.
      window: T.
      seed: of dropouts.
      attention: how both models compute theirs; none: as KerasHub does.
    """
    blocks = None if attention is None else EfficientAttention(attention)
    trainer = DistillationTrainer(training, distillation, total_steps=_STEPS, seed=seed, attention=blocks)
    with without_values():
        variables = trainer.trainable_variables(teacher, student)
    optimizer = make_optimizer(training, _STEPS, variables, stateless=True)
    parts = {
        "weights": variables,
        "optimizer": optimizer.variables,
        "teacher": [] if teacher is None else teacher.backbone.variables,
    }
    mapped = [(kind, variable) for kind, group in parts.items() for variable in group]
    batch = {"tokens": tf.TensorSpec([windows, window], tf.int32)}
    if distillation.targets != "dense":
        words = distillation.draws if distillation.targets == "sampled" else distillation.top_k
        batch["teacher_ids"] = tf.TensorSpec([windows, window - 1, words], tf.int32)
        batch["teacher_log_probs"] = tf.TensorSpec([windows, window - 1, words], tf.float32)
    changing = [variable for kind, variable in mapped if kind in ("weights", "optimizer")]

    def step(*arguments: tf.Tensor) -> list[tf.Tensor]:
        values, tensors = arguments[: len(mapped)], arguments[len(mapped) :]
        mapping = [(variable, value) for (_, variable), value in zip(mapped, values, strict=True)]
        with keras.StatelessScope(mapping, initialize_variables=False) as scope:
            metrics = trainer.step(dict(zip(batch, tensors, strict=True)), teacher, student, optimizer)
            return [*(scope.get_current_value(variable) for variable in changing), *metrics.values()]

    specs = [tf.TensorSpec(variable.shape, variable.dtype) for _, variable in mapped]
    return _program(step, [*specs, *batch.values()], [*(kind for kind, _ in mapped), *["batch"] * len(batch)], len(changing))


def scorer_program(
    teacher: Gemma, *, distillation: DistillationConfig, windows: int, window: int, attention: AttentionConfig | None = None
) -> Program:
    """The teacher's scoring of some windows: its best words and their log-probabilities.

    Args:
      teacher: abstract.
      distillation: how many words, at which temperature.
      windows: of a batch.
      window: T.
      attention: as of `training_program`.
    """
    blocks = None if attention is None else EfficientAttention(attention)
    scorer = TargetScorer(teacher, top_k=distillation.top_k, temperature=distillation.stored_temperature, attention=blocks)
    variables = teacher.backbone.variables

    def score(*arguments: tf.Tensor) -> list[tf.Tensor]:
        *values, tokens = arguments
        with keras.StatelessScope(list(zip(variables, values, strict=True)), initialize_variables=False):
            return list(scorer.score(tokens))

    specs = [tf.TensorSpec(variable.shape, variable.dtype) for variable in variables]
    return _program(score, [*specs, tf.TensorSpec([windows, window], tf.int32)], [*["teacher"] * len(specs), "batch"], 0)


def _program(run: Callable[..., list[tf.Tensor]], specs: Sequence[tf.TensorSpec], kinds: Sequence[str], updated: int) -> Program:
    return Program(tf.function(run, jit_compile=True, autograph=False), specs, kinds, updated)
