"""What a student and a teacher give a batch, as `DistillationLoss` compares it."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

Layers = Mapping[int, tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentOutputs:
    """A student's outputs for windows with N predictions each. Either `states` with `embedding`, or `logits`.

    Attributes:
      labels: int32 [B, N], the words that really came.
      mask: float32 [B, N], 1 where a label counts and 0 elsewhere.
      states: [B, N, D], after the final norm, in the compute dtype.
      embedding: [V, D], tied to the head.
      logit_soft_cap: of the head, where there is one.
      logits: [B, N, V], of a model that has them already; they take [tokens, vocabulary] in memory.
      hidden_states: layer to [B, N, D], after that layer.
      attention_maps: layer to float32 [B, heads, N, N].
      visible: layer to bool [B, N, N], the keys that each query of that layer may see; needed with `attention_maps`.
    """

    labels: tf.Tensor
    mask: tf.Tensor
    states: tf.Tensor | None = None
    embedding: tf.Tensor | None = None
    logit_soft_cap: float | None = None
    logits: tf.Tensor | None = None
    hidden_states: Layers = dataclasses.field(default_factory=dict)
    attention_maps: Layers = dataclasses.field(default_factory=dict)
    visible: Layers = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherOutputs:
    """A teacher's outputs for the same windows. Words with their probabilities, or `states` with `embedding`, or `logits`.

    Attributes:
      teacher_ids: int32 [B, N, k], words of the student's vocabulary.
      teacher_log_probs: float32 [B, N, k], in nats, at the stored temperature.
      states: [B, N, Dt], after the final norm.
      embedding: [V, Dt], over the student's vocabulary.
      logit_soft_cap: of the teacher's head, where there is one.
      logits: [B, N, V].
      hidden_states: layer to [B, N, Dt], after that layer.
      attention_maps: layer to float32 [B, heads, N, N].
      visible: layer to bool [B, N, N], the keys that each query of that layer may see; needed with `attention_maps`.
    """

    teacher_ids: tf.Tensor | None = None
    teacher_log_probs: tf.Tensor | None = None
    states: tf.Tensor | None = None
    embedding: tf.Tensor | None = None
    logit_soft_cap: float | None = None
    logits: tf.Tensor | None = None
    hidden_states: Layers = dataclasses.field(default_factory=dict)
    attention_maps: Layers = dataclasses.field(default_factory=dict)
    visible: Layers = dataclasses.field(default_factory=dict)
