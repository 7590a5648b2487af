"""One optimizer step of distillation, compiled by XLA."""

from collections.abc import Callable

import keras
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, Schedule, TrainingConfig
from gemma_tf_distill.errors import ConfigError, WeightsError
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.apply import ModelQuantization
from gemma_tf_distill.training.accumulation import gradient_accumulation_step, replica_index, replicas_in_sync
from gemma_tf_distill.training.batch_loss import Batch, Metrics, batch_loss
from gemma_tf_distill.training.group_norms import groups_of
from gemma_tf_distill.training.layer_pairs import LayerPairs
from gemma_tf_distill.training.progressive_dropout import ProgressiveDropout
from gemma_tf_distill.training.schedules import value_at
from gemma_tf_distill.training.strategies import compiles_itself
from gemma_tf_distill.training.teacher_outputs import STORED_TARGETS, Teacher
from gemma_tf_distill.xla.optimizer import XLAOptimizer


class DistillationTrainer:
    """Trains a student on a teacher's targets, stored or live, on what lies between its layers, and on the text itself.

    Every loss is a float32 sum over the tokens that count, divided by their number; a batch without any has loss 0.
    """

    def __init__(
        self,
        training: TrainingConfig,
        distillation: DistillationConfig,
        *,
        learn_from_teacher: bool = True,
        total_steps: int | None = None,
        pairs: LayerPairs | None = None,
        seed: int = 0,
        quantization: ModelQuantization | None = None,
        attention: EfficientAttention | None = None,
        xla: XLAOptimizer | None = None,
    ):
        """Args:
          training: clipping, accumulation, layer dropout.
          distillation: what to learn from.
          learn_from_teacher: off for the control run, which sees the same tokens and only the hard labels.
          total_steps: the length of training, which schedules and layer dropout are measured by.
          pairs: the layers that are compared, with their projectors; none: as the config's mappings say, for the first teacher
            and student that `train_step` sees.
          seed: of dropouts.
          quantization: of the student that `train_step` is given, which then learns as it will be stored; none: it learns in float.
          attention: how student and live teacher compute theirs; none: as KerasHub does.
          xla: what compiles a step; none: whole steps, without flags.

        Raises:
          ConfigError: if something is scheduled and `total_steps` is missing.
        """
        freezes = quantization is not None and quantization.config.freeze_fraction > 0
        scheduled = isinstance(distillation.alpha, Schedule) or isinstance(distillation.temperature, Schedule)
        if (scheduled or freezes or training.layer_dropout > 0) and total_steps is None:
            raise ConfigError(
                "alpha, temperature, layer dropout or quantization's scales change with training: give DistillationTrainer its total_steps"
            )
        self._training = training
        self._distillation = distillation
        self._learn_from_teacher = learn_from_teacher
        self._total_steps = total_steps
        self._pairs = pairs
        self._seed = seed
        self._quantization = quantization
        self._attention = attention
        self._xla = XLAOptimizer() if xla is None else xla
        self._steps: dict[tuple[int, ...], Callable[[Batch], Metrics]] = {}

    def trainable_variables(self, teacher_model: Teacher | None, student_model: Gemma) -> list[keras.Variable]:
        """What the optimizer is to be built for: the student's variables, and those of the projectors where hidden states are compared."""
        return [*student_model.backbone.trainable_variables, *self._layer_pairs(teacher_model, student_model).trainable_variables]

    def train_step(self, batch: Batch, teacher_model: Teacher | None, student_model: Gemma, optimizer: keras.Optimizer) -> Metrics:
        """Updates the student once.

        Args:
          batch: `tokens` int32 [B, T]; stored targets `teacher_ids` int32 [B, N, k] and `teacher_log_probs` float32 [B, N, k] (nats,
            at the config's temperature), or none: then the live teacher's whole distribution is learned, as it is where the
            config's targets are dense; optionally `mask` float32 [B, N], where not all labels count that usually would. The
            control run reads the tokens only.
          teacher_model: a live teacher over the student's vocabulary, one elsewhere (`TeacherAhead.teacher`), or none where stored targets
            are all that is learned from.
          student_model: the model to train.
          optimizer: built for `trainable_variables`, or not built yet.

        Returns:
          Float32 scalars: `loss`, its terms, `alpha` and `temperature` where they change, `gradient_norm` (before clipping) and
          `gradient_norm/…` of each of `group_norms.GROUPS` that is trained, `tokens` (that count).

        Raises:
          ConfigError: if what the config asks for needs a live teacher, or targets, that are not given, or if the trainer's quantization
            was made of another student.
          WeightsError: if teacher and student differ in vocabulary.
        """
        teacher = teacher_model if self._learn_from_teacher else None
        if self._quantization is not None and self._quantization.model is not student_model:
            raise ConfigError("the trainer's quantization is another model's: make a ModelQuantization of this student")
        if not self._learn_from_teacher:
            batch = {name: batch[name] for name in ("tokens", "mask") if name in batch}
        elif self._distillation.targets == "dense":
            batch = {name: value for name, value in batch.items() if name not in STORED_TARGETS}
        if self._learn_from_teacher:
            self._check(batch, teacher, student_model)
        key = (id(teacher), id(student_model), id(optimizer), "teacher_ids" in batch)
        if key not in self._steps:
            if not optimizer.built:
                optimizer.build(self.trainable_variables(teacher, student_model))

            def step(batch: Batch) -> Metrics:
                return self.step(batch, teacher, student_model, optimizer)

            # In a replica, `step` has what can be compiled by itself compiled.
            self._steps[key] = step if tf.distribute.has_strategy() else self._xla.compile(step)
        return self._steps[key](batch)

    def _check(self, batch: Batch, teacher: Teacher | None, student: Gemma) -> None:
        if teacher is None and self._distillation.needs_live_teacher:
            raise ConfigError(
                "dense targets, hidden states, attention maps and the student's own continuations need the teacher while training: "
                "give train_step a teacher_model"
            )
        if teacher is None and "teacher_ids" not in batch:
            raise ConfigError("there are no stored targets (teacher_ids, teacher_log_probs) in the batch and no teacher_model: give one")
        if teacher is not None and teacher.tokenizer.proto != student.tokenizer.proto:
            raise WeightsError(
                f"teacher ({teacher.tokenizer.vocabulary_size} words) and student ({student.tokenizer.vocabulary_size} words) have "
                "different tokenizers: load the teacher over the student's vocabulary (load_teacher(..., vocabulary=...), or trim_teacher)"
            )

    def _layer_pairs(self, teacher: Teacher | None, student: Gemma) -> LayerPairs:
        if not self._learn_from_teacher or teacher is None:
            return LayerPairs()
        if self._pairs is None:
            model = teacher if isinstance(teacher, Gemma) else teacher.model
            self._pairs = LayerPairs.of(self._distillation, model, student, seed=self._seed)
        return self._pairs

    def step(self, batch: Batch, teacher: Teacher | None, student: Gemma, optimizer: keras.Optimizer) -> Metrics:
        """What `train_step` compiles: for a caller that traces it, with arguments that were checked and an optimizer that is built.

        In a replica, XLA compiles the gradients of its share; their sum over the replicas, which XLA knows on TPUs only (where all of
        `strategy.run` is compiled), and the update are TensorFlow's. Replica r with P parts draws as one device does for parts rP to
        rP + P - 1.
        """
        parts = self._training.accumulation_steps
        all_parts, first_part = replicas_in_sync() * parts, replica_index() * parts
        pairs = self._layer_pairs(teacher, student)
        iterations = tf.cast(optimizer.iterations.value, tf.int32)
        progress = tf.minimum(tf.cast(iterations, tf.float32) / max(1, (self._total_steps or 1) - 1), 1.0)
        alpha, temperature = (value_at(value, progress) for value in (self._distillation.alpha, self._distillation.temperature))
        if self._quantization is not None:
            total = self._total_steps or 0
            frozen_steps = round(self._quantization.config.freeze_fraction * total)
            self._quantization.track(frozen=(iterations >= total - frozen_steps) if frozen_steps else False)

        def loss(part: Batch, teacher: Teacher | None, student: Gemma, token_count: tf.Tensor, index: tf.Tensor) -> Metrics:
            seed = tf.stack([self._seed, iterations * all_parts + first_part + index])
            scales = None
            if self._training.layer_dropout:
                dropout = ProgressiveDropout(student.backbone.num_layers, self._training.layer_dropout)
                scales = dropout.layer_scales(progress, part["tokens"].shape[0], seed)
            return batch_loss(
                part,
                teacher,
                student,
                token_count,
                distillation=self._distillation,
                learn_from_teacher=self._learn_from_teacher,
                pairs=pairs,
                alpha=alpha,
                temperature=temperature,
                layer_scales=scales,
                seed=seed,
                quantization=self._quantization,
                checkpointing=self._training.gradient_checkpointing == "blocks",
                attention=self._attention,
            )

        variables = self.trainable_variables(teacher, student)
        metrics = gradient_accumulation_step(
            teacher,
            student,
            optimizer,
            batch,
            parts,
            loss=loss,
            variables=variables,
            groups=groups_of(student, variables),
            clip_norm=self._training.clip_norm,
            compiled=self._xla.compile if tf.distribute.has_strategy() and not compiles_itself(tf.distribute.get_strategy()) else None,
        )
        for name, value in (("alpha", alpha), ("temperature", temperature)):
            if self._learn_from_teacher and tf.is_tensor(value):
                metrics[name] = value
        return metrics
