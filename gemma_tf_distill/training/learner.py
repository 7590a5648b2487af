"""What takes the steps of a run: models, trainers, optimizer, and the objects that a checkpoint holds."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, QuantizationConfig, TrainingConfig
from gemma_tf_distill.data.examples import model_inputs
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.apply import ModelQuantization
from gemma_tf_distill.training.batch_loss import Batch, Metrics
from gemma_tf_distill.training.checkpoints import Checkpoints
from gemma_tf_distill.training.execution import Executed, Execution
from gemma_tf_distill.training.group_norms import groups_of
from gemma_tf_distill.training.layer_pairs import LayerPairs
from gemma_tf_distill.training.on_policy import OnPolicySampler
from gemma_tf_distill.training.optimizers import TakesSums, make_optimizer
from gemma_tf_distill.training.run import Run
from gemma_tf_distill.training.teacher_ahead import TeacherAhead, TeacherInStep
from gemma_tf_distill.training.trainer import DistillationTrainer
from gemma_tf_distill.training.update_norms import UpdateNorms
from gemma_tf_distill.xla.optimizer import XLAOptimizer

# Of which `adaptive` mappings compare attention patterns, all layers' at once.
_CALIBRATION_WINDOWS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """A student with all that a step needs.

    Attributes:
      student: the model that learns.
      teaching: how the live teacher, if there is one, is asked.
      optimizer: built for what is trained.
      quantized: the student's, where it learns as it will be stored.
      pairs: the layers that are compared.
      own_words: what lets the student write some batches itself; none: it never does.
      execute: a step, or several, on the corpus' batches.
      own_trainer: of the batches that the student wrote.
    """

    student: Gemma
    teaching: TeacherInStep
    optimizer: TakesSums
    quantized: ModelQuantization | None
    pairs: LayerPairs
    own_words: OnPolicySampler | None
    execute: Execution
    own_trainer: DistillationTrainer

    @property
    def steps_taken(self) -> int:
        """Optimizer steps, those before a resumption included."""
        return int(self.optimizer.iterations.numpy())

    def writes_itself(self, step: int) -> bool:
        """Whether the student writes the batch of a step itself."""
        return self.own_words is not None and self.own_words.chooses(step)

    def take(self, iterator: Iterator[Batch], step: int, steps: int) -> Executed:
        """Takes steps.

        Args:
          iterator: of the corpus' batches.
          step: steps taken before.
          steps: how many to take.

        Returns:
          What `Execution` returns.
        """
        if self.own_words is None or not self.own_words.chooses(step):
            return self.execute(iterator, steps)
        tokens = next(iterator)["tokens"]
        batch = self.teaching(self.own_words(tokens, step))
        metrics = self.own_trainer.train_step(batch, self.teaching.teacher, self.student, self.optimizer)
        metrics |= {"window_tokens": tf.cast(tf.size(tokens), tf.float32), "wrong_targets": tf.constant(0.0)}
        return Executed(1, metrics, metrics)

    def update_norms(self, strategy: tf.distribute.Strategy) -> UpdateNorms:
        """Of what is trained."""
        variables = [*self.student.backbone.trainable_variables, *self.pairs.trainable_variables]
        return UpdateNorms(self.optimizer, variables, groups_of(self.student, variables), strategy)

    def checkpoints(self, strategy: tf.distribute.Strategy, folder: str, **more: Any) -> Checkpoints:
        """Of all that changes with training, and `more`."""
        return self.weights_alone(strategy, folder, optimizer=self.optimizer, **more)

    def weights_alone(self, strategy: tf.distribute.Strategy, folder: str, **more: Any) -> Checkpoints:
        """Of what a student is at the end of training, and `more`."""
        return Checkpoints(
            strategy,
            folder,
            backbone=self.student.backbone,
            projectors=self.pairs.trainable_variables,
            quantization=[] if self.quantized is None else self.quantized.variables,
            **more,
        )


def make_learner(
    student: Gemma,
    run: Run,
    batches: Callable[..., tf.data.Dataset],
    *,
    training: TrainingConfig,
    distillation: DistillationConfig,
    total_steps: int,
    teacher: Gemma | None,
    kept_layers: Sequence[int] | None,
    seed: int,
    quantization: QuantizationConfig | None,
    attention: EfficientAttention | None,
    xla: XLAOptimizer | None,
    strategy: tf.distribute.Strategy,
    rate_factor: tf.Variable | None = None,
) -> Learner:
    """Makes it for a student at its initial weights; arguments and errors as of `fit`, and `rate_factor` as of `make_optimizer`."""
    quantized = None if quantization is None else ModelQuantization(student, quantization)
    pairs, own_words = LayerPairs(), None
    if run.learn_from_teacher and teacher is not None:
        tokens = next(iter(batches(0).take(1)))["tokens"]
        calibration = model_inputs(tokens[:_CALIBRATION_WINDOWS])
        with strategy.scope():
            pairs = LayerPairs.of(distillation, teacher, student, seed=seed, kept_layers=kept_layers, calibration=calibration)
        if distillation.on_policy.fraction:
            own_words = OnPolicySampler(student, distillation.on_policy, tokens.shape[1], seed, quantized)

    teaching = TeacherInStep(teacher)
    if run.learn_from_teacher and training.teacher_device is not None:
        if teacher is None:
            raise ConfigError(f"training.teacher_device is {training.teacher_device}, but there is no live teacher: set it to null")
        teaching = TeacherAhead(
            teacher,
            training.teacher_device,
            student,
            distillation=distillation,
            pairs=pairs,
            parts=training.accumulation_steps,
            attention=attention,
            xla=xla,
        )

    def make_trainer(distillation: DistillationConfig) -> DistillationTrainer:
        return DistillationTrainer(
            training,
            distillation,
            learn_from_teacher=run.learn_from_teacher,
            total_steps=total_steps,
            pairs=pairs,
            seed=seed,
            quantization=quantized,
            attention=attention,
            xla=xla,
        )

    trainer = make_trainer(distillation)
    with strategy.scope():
        optimizer = make_optimizer(training, total_steps, trainer.trainable_variables(teaching.teacher, student), rate_factor=rate_factor)

    def step(batch: Batch) -> Metrics:
        return trainer.train_step(batch, teaching.teacher, student, optimizer)

    return Learner(
        student=student,
        teaching=teaching,
        optimizer=optimizer,
        quantized=quantized,
        pairs=pairs,
        own_words=own_words,
        execute=Execution(strategy, step, student.backbone.vocabulary_size),
        # What the student wrote is no text to learn by heart: only the teacher's opinion of it counts.
        own_trainer=make_trainer(dataclasses.replace(distillation, alpha=1.0)),
    )
