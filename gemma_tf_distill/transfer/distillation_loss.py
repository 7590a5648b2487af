"""The weighted sum of all that a student learns from: soft and hard targets, hidden states, attention maps."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, Schedule
from gemma_tf_distill.config.checking import check
from gemma_tf_distill.errors import ConfigError, WeightsError
from gemma_tf_distill.transfer.attention_maps import attention_map_loss
from gemma_tf_distill.transfer.hidden_states import LinearPathDistillation
from gemma_tf_distill.transfer.outputs import ModelOutputs, StudentOutputs, TeacherOutputs
from gemma_tf_distill.transfer.token_losses import SoftAndHardTargets, hard_target_terms
from gemma_tf_distill.transfer.vocabulary_loss import TokenLoss, vocabulary_loss

# A teacher's layer and the student's layer that is compared with it.
Pair = tuple[int, int]


class DistillationLoss:
    """`alpha T^2 soft + (1 - alpha) hard + weight_h hidden states + weight_a attention maps`, float32, in nats where they are nats.

    Each term is summed over the tokens that count and divided by their number; a batch without any has loss 0. Hidden states and
    attention maps are means over their layer pairs.
    """

    def __init__(
        self,
        config: DistillationConfig | None = None,
        *,
        projectors: Mapping[Pair, LinearPathDistillation] | None = None,
        attention_pairs: Sequence[Pair] = (),
    ):
        """Args:
        config: weights, divergence and kind of targets; none: the defaults.
        projectors: for each compared pair (teacher layer, student layer), what brings the student's states to the teacher's width.
        attention_pairs: pairs (teacher layer, student layer) whose attention maps are compared.
        """
        self._config = DistillationConfig() if config is None else config
        self._projectors = dict(projectors or {})
        self._attention_pairs = tuple(attention_pairs)

    def compute_loss(
        self,
        student_outputs: StudentOutputs,
        teacher_outputs: TeacherOutputs | None,
        alpha: float | tf.Tensor | None = None,
        temperature: float | tf.Tensor | None = None,
        *,
        training: bool = True,
        seed: tf.Tensor | None = None,
        token_count: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The loss of a batch and every term of it. Works eagerly, in a `tf.function` and under XLA (static shapes).

        Args:
          student_outputs: of the student.
          teacher_outputs: of the teacher, stored or live; none: the hard targets alone, with weight 1.
          alpha: weight of the soft targets, from 0 to 1; none: the config's.
          temperature: above 0; none: the config's.
          training: whether hidden states are dropped out.
          seed: int32 [2], of that dropout.
          token_count: float32 scalar to divide the sums by, where this batch is a part of a larger one; none: the tokens that
            count here, at least 1.

        Returns:
          Float32 scalars: `loss`; `hard_loss`; `soft_loss` (without its T^2), `hidden_states_loss` and `attention_maps_loss`
          (without their weights), where they are in use. Only `loss` is to be differentiated.

        Raises:
          ConfigError: if alpha or temperature is out of range, or is a schedule in the config and not given.
          WeightsError: if the vocabularies differ.
        """
        if token_count is None:
            token_count = tf.maximum(tf.reduce_sum(student_outputs.mask), 1.0)
        if teacher_outputs is None:
            sums = _token_sums(student_outputs, None, hard_target_terms)
            return {name: total / token_count for name, total in sums.items()}
        alpha = _number(self._config.alpha if alpha is None else alpha, "alpha")
        temperature = _number(self._config.temperature if temperature is None else temperature, "temperature")
        _check_vocabularies(student_outputs, teacher_outputs)
        terms = SoftAndHardTargets(self._config, alpha, temperature, teacher_outputs.embedding, teacher_outputs.logit_soft_cap)
        sums = _token_sums(student_outputs, teacher_outputs, terms)
        if self._projectors and self._config.hidden_states.weight:
            sums["hidden_states_loss"] = self._hidden_states(student_outputs, teacher_outputs, training, seed)
            sums["loss"] += self._config.hidden_states.weight * sums["hidden_states_loss"]
        if self._attention_pairs and self._config.attention_maps.weight:
            sums["attention_maps_loss"] = self._attention_maps(student_outputs, teacher_outputs)
            sums["loss"] += self._config.attention_maps.weight * sums["attention_maps_loss"]
        return {name: total / token_count for name, total in sums.items()}

    def _hidden_states(self, student: StudentOutputs, teacher: TeacherOutputs, training: bool, seed: tf.Tensor | None) -> tf.Tensor:
        total = tf.constant(0.0)
        for index, ((theirs, mine), project) in enumerate(sorted(self._projectors.items())):
            own_seed = None if seed is None else seed + tf.constant([1 + index, 0])
            terms = project(student.hidden_states[mine], teacher.hidden_states[theirs], student.mask, training=training, seed=own_seed)
            total += tf.reduce_sum(terms)
        return total / len(self._projectors)

    def _attention_maps(self, student: StudentOutputs, teacher: TeacherOutputs) -> tf.Tensor:
        total = tf.constant(0.0)
        for theirs, mine in self._attention_pairs:
            visible = tf.logical_and(student.visible[mine], teacher.visible[theirs])
            total += tf.reduce_sum(
                attention_map_loss(student.attention_maps[mine], teacher.attention_maps[theirs], student.mask, visible=visible)
            )
        return total / len(self._attention_pairs)


def _token_sums(student: StudentOutputs, teacher: TeacherOutputs | None, token_loss: TokenLoss) -> dict[str, tf.Tensor]:
    count = student.labels.shape[0] * student.labels.shape[1]

    def flat(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, [count, *x.shape[2:]])

    targets = {"labels": flat(student.labels)}
    if teacher is not None:
        found = {
            "teacher_ids": teacher.teacher_ids,
            "teacher_log_probs": teacher.teacher_log_probs,
            "teacher_states": teacher.states if teacher.teacher_ids is None else None,
            "teacher_logits": teacher.logits,
        }
        targets |= {name: tf.stop_gradient(flat(value)) for name, value in found.items() if value is not None}
    mask = flat(student.mask)
    if student.logits is None:
        return vocabulary_loss(flat(student.states), student.embedding, targets, mask, token_loss, logit_soft_cap=student.logit_soft_cap)
    terms = token_loss(tf.cast(flat(student.logits), tf.float32), targets)
    # A token that does not count may hold anything, also what makes its terms infinite.
    return {name: tf.reduce_sum(tf.where(mask > 0, term * mask, 0.0)) for name, term in terms.items()}


def _number(value: float | Schedule | tf.Tensor, name: str) -> float | tf.Tensor:
    if isinstance(value, Schedule):
        raise ConfigError(f"distillation.{name} is a schedule: give compute_loss its value at this step")
    known = tf.get_static_value(value) if tf.is_tensor(value) else value
    if known is not None:
        check(name != "alpha" or 0 <= known <= 1, name, "between 0 and 1", float(known))
        check(name != "temperature" or known > 0, name, "above 0", float(known))
    return value


def _check_vocabularies(student: StudentOutputs, teacher: TeacherOutputs) -> None:
    def words(outputs: ModelOutputs) -> int | None:
        if outputs.logits is not None:
            return outputs.logits.shape[-1]
        return None if outputs.embedding is None else outputs.embedding.shape[0]

    mine, theirs = words(student), words(teacher)
    if mine is not None and theirs is not None and mine != theirs:
        raise WeightsError(
            f"the student has {mine} words and the teacher {theirs}: load the teacher over the student's vocabulary "
            "(load_teacher(..., vocabulary=...), or trim_teacher)"
        )
