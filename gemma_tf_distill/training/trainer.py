"""One optimizer step of distillation, compiled by XLA."""

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, TrainingConfig
from gemma_tf_distill.data.examples import labels_and_mask, model_inputs
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.teacher.targets import TargetScorer
from gemma_tf_distill.transfer.distillation_loss import SoftAndHardTargets, hard_target_terms
from gemma_tf_distill.transfer.vocabulary_loss import vocabulary_loss

Batch = Mapping[str, tf.Tensor]
Metrics = dict[str, tf.Tensor]


class DistillationTrainer:
    """Trains a student on a teacher's targets, stored or live, and on the text itself.

    Every loss is a float32 sum over the tokens that count, divided by their number; a batch without any has loss 0.
    """

    def __init__(self, training: TrainingConfig, distillation: DistillationConfig, *, learn_from_teacher: bool = True):
        """Args:
        training: clipping.
        distillation: alpha, temperature and top k.
        learn_from_teacher: off for the control run, which sees the same tokens and only the hard labels.
        """
        self._training = training
        self._distillation = distillation
        self._token_loss = SoftAndHardTargets(distillation) if learn_from_teacher else hard_target_terms
        self._learn_from_teacher = learn_from_teacher
        self._steps: dict[tuple[int, ...], Callable[[Batch], Metrics]] = {}

    def train_step(self, batch: Batch, teacher_model: Gemma | None, student_model: Gemma, optimizer: keras.Optimizer) -> Metrics:
        """Updates the student once.

        Args:
          batch: `tokens` int32 [B, T]; where `teacher_model` is none also `teacher_ids` int32 [B, N, k] and
            `teacher_log_probs` float32 [B, N, k] (nats, at the config's temperature), which the control run does not read.
          teacher_model: a live teacher over the student's vocabulary, or none for stored targets.
          student_model: the model to train.
          optimizer: built for the student's trainable variables.

        Returns:
          Float32 scalars: `loss`, its terms, `gradient_norm` (before clipping) and `tokens` (that count).
        """
        key = (id(teacher_model), id(student_model), id(optimizer))
        if key not in self._steps:

            @tf.function(jit_compile=True)
            def step(batch: Batch) -> Metrics:
                return self._step(batch, scorer, student_model, optimizer)

            scorer = None
            if teacher_model is not None and self._learn_from_teacher:
                scorer = TargetScorer(teacher_model, top_k=self._distillation.top_k, temperature=self._distillation.temperature)
            self._steps[key] = step
        return self._steps[key](batch)

    def _step(self, batch: Batch, scorer: TargetScorer | None, student: Gemma, optimizer: keras.Optimizer) -> Metrics:
        tokens = batch["tokens"]
        labels, mask = labels_and_mask(tokens)
        count = labels.shape[0] * labels.shape[1]
        targets = {"labels": tf.reshape(labels, [count])}
        if self._learn_from_teacher:
            scored = batch if scorer is None else scorer.score(tokens)._asdict()
            for name in ("teacher_ids", "teacher_log_probs"):
                targets[name] = tf.stop_gradient(tf.reshape(scored[name], [count, scored[name].shape[-1]]))
        counted = tf.reduce_sum(mask)
        variables = [variable.value for variable in student.backbone.trainable_variables]
        with tf.GradientTape() as tape:
            hidden = student.backbone(model_inputs(tokens), training=True)
            sums = vocabulary_loss(
                tf.reshape(hidden, [count, hidden.shape[-1]]),
                student.backbone.token_embedding.embeddings.value,
                targets,
                tf.reshape(mask, [count]),
                self._token_loss,
                logit_soft_cap=student.backbone.final_logit_soft_cap,
            )
            means = {name: total / tf.maximum(counted, 1.0) for name, total in sums.items()}
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(means["loss"], variables)]
        clipped, norm = tf.clip_by_global_norm(gradients, self._training.clip_norm)
        optimizer.apply(clipped, student.backbone.trainable_variables)
        return {**means, "gradient_norm": norm, "tokens": counted}
