"""What a student and a teacher give a batch, as `DistillationLoss` compares it."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

Layers = Mapping[int, tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOutputs:
    """A model's outputs for windows with N predictions each: `states` with `embedding`, or `logits`.

    Attributes:
      states: [B, N, D], after the final norm, in the compute dtype.
      embedding: [V, D], tied to the head, over the student's vocabulary.
      logit_soft_cap: of the head, where there is one.
      logits: [B, N, V], of a model that has them already; they take [tokens, vocabulary] in memory.
      hidden_states: layer to [B, N, D], after that layer.
      attention_maps: layer to float32 [B, heads, N, N].
      visible: layer to bool [B, N, N], the keys that each query of that layer may see; needed with `attention_maps`.
    """

    states: tf.Tensor | None = None
    embedding: tf.Tensor | None = None
    logit_soft_cap: float | None = None
    logits: tf.Tensor | None = None
    hidden_states: Layers = dataclasses.field(default_factory=dict)
    attention_maps: Layers = dataclasses.field(default_factory=dict)
    visible: Layers = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentOutputs(ModelOutputs):
    """A student's outputs, with what they are to predict.

    Attributes:
      labels: int32 [B, N], the words that really came.
      mask: float32 [B, N], 1 where a label counts and 0 elsewhere.
    """

    labels: tf.Tensor
    mask: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherOutputs(ModelOutputs):
    """A teacher's outputs for the same windows, or words of its with their probabilities.

    Attributes:
      teacher_ids: int32 [B, N, k], words of the student's vocabulary.
      teacher_log_probs: float32 [B, N, k], in nats, at the stored temperature.
    """

    teacher_ids: tf.Tensor | None = None
    teacher_log_probs: tf.Tensor | None = None
