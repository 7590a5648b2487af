"""Which layers of a teacher and a student are compared, and the projectors between them."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.transfer.attention_maps import attention_similarity
from gemma_tf_distill.transfer.distillation_loss import Pair
from gemma_tf_distill.transfer.hidden_states import LinearPathDistillation
from gemma_tf_distill.transfer.layer_mapping import IntermediateLayerMapping


@dataclasses.dataclass(frozen=True)
class LayerPairs:
    """Compared layers; none at all where the config compares none.

    Attributes:
      projectors: for each pair (teacher layer, student layer) of hidden states, its projector, built.
      attention_maps: pairs whose attention maps are compared.
    """

    projectors: Mapping[Pair, LinearPathDistillation] = dataclasses.field(default_factory=dict)
    attention_maps: Sequence[Pair] = ()

    @classmethod
    def of(
        cls,
        config: DistillationConfig,
        teacher: Gemma,
        student: Gemma,
        *,
        seed: int,
        kept_layers: Sequence[int] | None = None,
        calibration: Mapping[str, tf.Tensor] | None = None,
    ) -> "LayerPairs":
        """The pairs that a config's mappings name.

        Args:
          config: mappings and projectors.
          teacher: its depth and width, and for `adaptive` its attention maps.
          student: likewise.
          seed: of projectors that begin at random.
          kept_layers: the teacher's layers that the student began as, which `subset` needs.
          calibration: `model_inputs` of a few windows, which `adaptive` needs.

        Raises:
          ConfigError: if a mapping lacks what it needs, or a projector does not fit the widths.
        """
        depths = teacher.backbone.num_layers, student.backbone.num_layers

        def pairs(strategy: str, same_kind: bool) -> list[Pair]:
            similarity = None
            if strategy == "adaptive" and calibration is not None:
                similarity = attention_similarity(teacher.backbone, student.backbone, calibration)
            mapping = IntermediateLayerMapping(strategy, kept_layers=kept_layers, same_kind=same_kind)
            return mapping.create_mapping(*depths, similarity=similarity)

        projectors: dict[Pair, LinearPathDistillation] = {}
        hidden_states, attention_maps = config.hidden_states, config.attention_maps
        if hidden_states.weight:
            for index, pair in enumerate(pairs(hidden_states.mapping, same_kind=False)):
                projectors[pair] = LinearPathDistillation(
                    teacher.backbone.hidden_dim, hidden_states.dropout_rate, projector=hidden_states.projector, seed=seed + index
                )
                projectors[pair].build([None, None, student.backbone.hidden_dim])
        return cls(projectors, pairs(attention_maps.mapping, same_kind=True) if attention_maps.weight else ())

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The projectors' variables, in the pairs' order."""
        return [variable for _, projector in sorted(self.projectors.items()) for variable in projector.trainable_variables]

    @property
    def teacher_hidden_states(self) -> list[int]:
        """Layers of the teacher whose states are compared."""
        return sorted({theirs for theirs, _ in self.projectors})

    @property
    def student_hidden_states(self) -> list[int]:
        """Layers of the student whose states are compared."""
        return sorted({mine for _, mine in self.projectors})

    @property
    def teacher_attention_maps(self) -> list[int]:
        """Layers of the teacher whose attention maps are compared."""
        return sorted({theirs for theirs, _ in self.attention_maps})

    @property
    def student_attention_maps(self) -> list[int]:
        """Layers of the student whose attention maps are compared."""
        return sorted({mine for _, mine in self.attention_maps})
