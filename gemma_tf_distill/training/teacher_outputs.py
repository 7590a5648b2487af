"""What the loss reads of a teacher: stored with the batch, computed where the student trains, or brought from another device."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from gemma_tf_distill.data.examples import model_inputs
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.attention_in_place import efficient_attention
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.taps import forward, visible_keys
from gemma_tf_distill.gemma.tokenizer import Tokenizer
from gemma_tf_distill.training.layer_pairs import LayerPairs
from gemma_tf_distill.transfer.outputs import TeacherOutputs

STORED_TARGETS = ("teacher_ids", "teacher_log_probs")
_STATES = "teacher_states"


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherElsewhere:
    """A live teacher on another device than its student: batches bring what it gave (`TeacherAhead`).

    Attributes:
      model: its weights lie on that device; the student's step reads nothing but its architecture.
      embedding: [V, D], its head's, where the student trains; none where the config asks for no probabilities of the live teacher.
    """

    model: Gemma
    embedding: tf.Variable | None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.model.tokenizer


Teacher = Gemma | TeacherElsewhere


def runs_for(batch: Mapping[str, tf.Tensor], pairs: LayerPairs) -> bool:
    """Whether a live teacher is asked about a batch: not where its targets are stored and no layers are compared."""
    return not _stored(batch) or bool(pairs.projectors or pairs.attention_maps)


def live_outputs(
    teacher: Gemma, tokens: tf.Tensor, pairs: LayerPairs, attention: EfficientAttention | None, *, targets_stored: bool
) -> dict[str, tf.Tensor]:
    """A teacher's forward pass, as tensors that a batch can bring.

    Args:
      teacher: over the student's vocabulary.
      tokens: int32 [B, T].
      pairs: the layers that are compared.
      attention: how the teacher computes its own; none: as KerasHub does.
      targets_stored: then the teacher is only asked for what is compared, and runs no further than that.

    Returns:
      `teacher_states` [B, N, D] after the final norm, unless targets are stored; `teacher_hidden_states_L` [B, N, D] for each compared
      layer L, both in the compute dtype; `teacher_attention_map_L` float32 [B, heads, N, N].
    """
    tapped = [*pairs.teacher_hidden_states, *pairs.teacher_attention_maps]
    with efficient_attention(teacher.backbone, attention):
        theirs = forward(
            teacher.backbone,
            model_inputs(tokens),
            hidden_states=pairs.teacher_hidden_states,
            attention_maps=pairs.teacher_attention_maps,
            last=max(tapped) if targets_stored else None,
        )
    states = {} if theirs.states is None else {_STATES: theirs.states}
    hidden_states = {_hidden_states(layer): value for layer, value in theirs.hidden_states.items()}
    return states | hidden_states | {_attention_map(layer): value for layer, value in theirs.attention_maps.items()}


def teacher_outputs(
    batch: Mapping[str, tf.Tensor], teacher: Teacher | None, pairs: LayerPairs, attention: EfficientAttention | None
) -> TeacherOutputs:
    """A batch's stored targets, and what the loss reads of a live teacher, where there is one and it is asked.

    Args:
      batch: `tokens` int32 [B, T]; stored targets or none; of a teacher elsewhere also its `live_outputs`.
      teacher: live, elsewhere, or none.
      pairs: the layers that are compared.
      attention: how a teacher that runs here computes its own.

    Raises:
      ConfigError: if a teacher is elsewhere and the batch does not bring what it gave.
    """
    stored = _stored(batch)
    if teacher is None or not runs_for(batch, pairs):
        return TeacherOutputs(**stored)
    if isinstance(teacher, TeacherElsewhere):
        model, embedding, given = teacher.model, teacher.embedding, batch
        _check_brought(batch, pairs)
    else:
        model, embedding = teacher, teacher.backbone.token_embedding.embeddings.value
        given = live_outputs(teacher, batch["tokens"], pairs, attention, targets_stored=bool(stored))
    return TeacherOutputs(
        **stored,
        states=given.get(_STATES),
        embedding=embedding,
        logit_soft_cap=model.backbone.final_logit_soft_cap,
        hidden_states={layer: given[_hidden_states(layer)] for layer in pairs.teacher_hidden_states},
        attention_maps={layer: given[_attention_map(layer)] for layer in pairs.teacher_attention_maps},
        visible=visible_in(model, pairs.teacher_attention_maps, batch["tokens"]),
    )


def visible_in(model: Gemma, layers: list[int], tokens: tf.Tensor) -> dict[int, tf.Tensor]:
    """Layer to bool [B, N, N]: the keys that each query of windows int32 [B, T] may see there."""
    padding_mask = model_inputs(tokens)["padding_mask"]
    return {layer: visible_keys(model.backbone, layer, padding_mask) for layer in layers}


def _stored(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: batch[name] for name in STORED_TARGETS if name in batch}


def _hidden_states(layer: int) -> str:
    return f"teacher_hidden_states_{layer}"


def _attention_map(layer: int) -> str:
    return f"teacher_attention_map_{layer}"


def _check_brought(batch: Mapping[str, tf.Tensor], pairs: LayerPairs) -> None:
    wanted = [*map(_hidden_states, pairs.teacher_hidden_states), *map(_attention_map, pairs.teacher_attention_maps)]
    missing = [name for name in ([] if _stored(batch) else [_STATES]) + wanted if name not in batch]
    if missing:
        raise ConfigError(
            f"the teacher is on another device, and the batch brings no {', '.join(missing)}: take batches from TeacherAhead, made for the "
            "same layer pairs"
        )
