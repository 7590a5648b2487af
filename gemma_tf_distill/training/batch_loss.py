"""The loss of some windows: both models run, with the taps that are compared, and `DistillationLoss` puts it all together."""

from collections.abc import Mapping

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig
from gemma_tf_distill.data.examples import labels_and_mask, model_inputs
from gemma_tf_distill.gemma.attention_in_place import efficient_attention
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.taps import forward
from gemma_tf_distill.gemma.tied_embedding import tied_embedding
from gemma_tf_distill.quantization.apply import ModelQuantization, forward_as
from gemma_tf_distill.training.layer_pairs import LayerPairs
from gemma_tf_distill.training.teacher_outputs import Teacher, teacher_outputs, visible_in
from gemma_tf_distill.transfer.distillation_loss import DistillationLoss
from gemma_tf_distill.transfer.outputs import StudentOutputs

Batch = Mapping[str, tf.Tensor]
Metrics = dict[str, tf.Tensor]


def counting_mask(batch: Batch) -> tf.Tensor:
    """Which labels of a batch count, float32 [B, N]: its own `mask` where it has one, else all but padding and `<bos>`."""
    return batch["mask"] if "mask" in batch else labels_and_mask(batch["tokens"])[1]


def batch_loss(
    batch: Batch,
    teacher: Teacher | None,
    student: Gemma,
    token_count: tf.Tensor,
    *,
    distillation: DistillationConfig,
    learn_from_teacher: bool = True,
    pairs: LayerPairs | None = None,
    alpha: float | tf.Tensor | None = None,
    temperature: float | tf.Tensor | None = None,
    layer_scales: tf.Tensor | None = None,
    seed: tf.Tensor | None = None,
    quantization: ModelQuantization | None = None,
    checkpointing: bool = False,
    attention: EfficientAttention | None = None,
) -> Metrics:
    """The loss that is differentiated, and its terms, as float32 scalars.

    Args:
      batch: `tokens` int32 [B, T], stored targets or none, `mask` or none, as `DistillationTrainer.train_step` takes them.
      teacher: live, elsewhere (the batch then brings its `live_outputs`), or none.
      student: the model that learns.
      token_count: float32 scalar, by which sums over tokens are divided.
      distillation: what to learn from.
      learn_from_teacher: off: the hard labels alone.
      pairs: the layers that are compared; none: none.
      alpha: see `DistillationLoss.compute_loss`.
      temperature: likewise.
      layer_scales: float32 [layers, B], of the student (see `gemma.taps.forward`).
      seed: int32 [2], of dropout.
      quantization: the student's, which then runs as it will be stored; the teacher never does. None: the student runs in float.
      checkpointing: see `gemma.taps.forward`; of the student, since the teacher has no gradient.
      attention: how both models compute theirs; none: as KerasHub does.
    """
    pairs = LayerPairs() if pairs is None else pairs
    inputs = model_inputs(batch["tokens"])
    labels, _ = labels_and_mask(batch["tokens"])
    with efficient_attention(student.backbone, attention), forward_as(quantization, training=True) as head_input:
        rows, embedding = tied_embedding(student.backbone.token_embedding.embeddings.value, inputs["token_ids"])
        mine = forward(
            student.backbone,
            inputs,
            hidden_states=pairs.student_hidden_states,
            attention_maps=pairs.student_attention_maps,
            layer_scales=layer_scales,
            rows=rows,
            checkpointing=checkpointing,
        )
    student_outputs = StudentOutputs(
        labels=labels,
        mask=counting_mask(batch),
        states=head_input(mine.states),
        embedding=embedding,
        logit_soft_cap=student.backbone.final_logit_soft_cap,
        hidden_states=mine.hidden_states,
        attention_maps=mine.attention_maps,
        visible=visible_in(student, pairs.student_attention_maps, batch["tokens"]),
    )
    loss = DistillationLoss(distillation, projectors=pairs.projectors, attention_pairs=pairs.attention_maps)
    theirs = teacher_outputs(batch, teacher, pairs, attention) if learn_from_teacher else None
    return loss.compute_loss(student_outputs, theirs, alpha, temperature, seed=seed, token_count=token_count)
