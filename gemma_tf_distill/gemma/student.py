"""Students: the teacher with fewer words or layers or cut in width, or the same kind of model with sizes and weights of its own."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import keras_hub
import numpy as np

from gemma_tf_distill.config import StudentConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.model import LAYER_PERIOD, Gemma, architecture, is_local, new_backbone
from gemma_tf_distill.gemma.presets import preset_architecture
from gemma_tf_distill.gemma.vocabulary import Vocabulary
from gemma_tf_distill.gemma.width_cut import check_cut, cut_width


def trim_teacher(teacher: Gemma, vocabulary: Vocabulary) -> Gemma:
    """The teacher with the embedding rows of `vocabulary` only; its logits are the teacher's at those words.

    Raises:
      WeightsError: if the vocabulary was not made from this teacher's.
    """
    return _from_layers(teacher, range(teacher.backbone.num_layers), vocabulary, teacher.backbone.dtype_policy.name)


def build_student(
    config: StudentConfig,
    teacher: Gemma,
    vocabulary: Vocabulary,
    seed: int,
    dtype: str = "float32",
    calibration: np.ndarray | None = None,
) -> Gemma:
    """The student that a config describes, before training.

    Args:
      config: its `layers` (or none: all of them) start from the teacher's weights; `preset` and `sizes` from random ones.
      teacher: its weights and config are copied, never changed.
      vocabulary: the student's words.
      seed: of the random weights; Keras', numpy's and Python's global generators are set to it where there are any.
      dtype: Keras' policy for weights and computation, such as `float32` or `mixed_bfloat16`.
      calibration: int32 [windows, T], training windows of the student's vocabulary; needed where the config cuts the width.

    Raises:
      ConfigError: for layers that the teacher lacks or that break its pattern of local and global layers, for a cut that the teacher
        can't be given, and for a cut without calibration windows.
      WeightsError: for an unknown preset, or if the vocabulary was not made from this teacher's.
    """
    if config.preset is not None:
        sizes = preset_architecture(config.preset, "student.preset")
    elif config.sizes is not None:
        sizes = architecture(vocabulary_size=len(vocabulary.kept_ids), **dataclasses.asdict(config.sizes))
    else:
        layers = kept_layers(config, teacher.backbone.num_layers) or ()
        if config.cut is None:
            return _from_layers(teacher, layers, vocabulary, dtype)
        # Before anything is copied.
        check_cut(config.cut, teacher.config)
        if calibration is None:
            raise ConfigError("student.cut measures activations on text: give build_student some training windows as `calibration`")
        return cut_width(_from_layers(teacher, layers, vocabulary, dtype), config.cut, calibration)
    vocabulary.check_made_from(teacher.tokenizer)
    keras.utils.set_random_seed(seed)
    backbone = keras_hub.models.Gemma3Backbone(**sizes | {"vocabulary_size": len(vocabulary.kept_ids)}, dtype=dtype)
    return Gemma(backbone, vocabulary.tokenizer)


def student_architecture(config: StudentConfig, teacher: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of the student that a config describes, without making it: arguments of `keras_hub.models.Gemma3Backbone`.

    Args:
      config: one that fits the teacher.
      teacher: the teacher's, such as `describe_source` gives it. The vocabulary's size is that of the teacher, or of the preset.

    Raises:
      WeightsError: for an unknown preset.
    """
    if config.preset is not None:
        return preset_architecture(config.preset, "student.preset")
    if config.sizes is not None:
        return architecture(vocabulary_size=teacher["vocabulary_size"], **dataclasses.asdict(config.sizes))
    cut = {} if config.cut is None else dataclasses.asdict(config.cut)
    changed = {name: cut[name] for name in ("hidden_dim", "intermediate_dim", "num_query_heads") if cut.get(name) is not None}
    layers = kept_layers(config, teacher["num_layers"]) or ()
    return {**teacher, "num_layers": len(layers), **changed}


def kept_layers(config: StudentConfig, num_layers: int) -> tuple[int, ...] | None:
    """The layers of a teacher of `num_layers` that a student begins as; none where it begins anew."""
    if not config.starts_from_teacher:
        return None
    return tuple(range(num_layers)) if config.layers is None else config.layers


def check_layers(layers: Sequence[int], num_layers: int) -> None:
    """Checks that every kept layer exists and lands on an index of its own kind.

    KerasHub makes a layer local or global by its index, so the fifth kept layer, say, must be a local one of the teacher's.

    Args:
      layers: the teacher's layers to keep, in rising order.
      num_layers: of the teacher, such as `describe_source(source)["num_layers"]`.

    Raises:
      ConfigError: naming the layer, its kind, its place's kind, and a subset of the same length that works.
    """
    layers = list(layers)
    for place, layer in enumerate(layers):
        if layer >= num_layers:
            advice = f"try {_nearest_layers(layers, num_layers)}" if len(layers) <= num_layers else f"keep at most {num_layers}"
            raise ConfigError(f"student.layers names layer {layer}, but the teacher has layers 0 to {num_layers - 1}: {advice}")
        if _kind(layer) != _kind(place):
            raise ConfigError(
                f"student.layers puts the teacher's {_kind(layer)} layer {layer} in place {place}, which is {_kind(place)} "
                f"(every {LAYER_PERIOD}th layer is global): try {_nearest_layers(layers, num_layers)}"
            )


def _kind(index: int) -> str:
    return "local" if is_local(index, {"use_sliding_window_attention": True}) else "global"


def _nearest_layers(layers: Sequence[int], num_layers: int) -> list[int]:
    """The rising subset of the same length, each layer of its place's kind, that is nearest by the sum of index distances."""
    # best[layer]: cost and layers of the best choice for the places so far that ends at or before `layer`.
    best: list[tuple[float, list[int]]] = [(0, [])] * (num_layers + 1)
    for place, wanted in enumerate(layers):
        following: list[tuple[float, list[int]]] = [(math.inf, [])]
        for layer in range(num_layers):
            cost, chosen = best[layer]
            candidate = (cost + abs(layer - wanted), [*chosen, layer])
            fits = _kind(layer) == _kind(place) and len(chosen) == place
            following.append(min(following[-1], candidate) if fits else following[-1])
        best = following
    return best[num_layers][1]


def _from_layers(teacher: Gemma, layers: Sequence[int], vocabulary: Vocabulary, dtype: str) -> Gemma:
    check_layers(layers, teacher.backbone.num_layers)
    vocabulary.check_made_from(teacher.tokenizer)
    backbone = new_backbone(teacher, dtype=dtype, num_layers=len(layers), vocabulary_size=len(vocabulary.kept_ids))
    backbone.token_embedding.embeddings.assign(keras.ops.take(teacher.backbone.token_embedding.embeddings, vocabulary.kept_ids, axis=0))
    backbone.layer_norm.scale.assign(teacher.backbone.layer_norm.scale)
    for place, layer in enumerate(layers):
        source, target = teacher.backbone.transformer_layers[layer], backbone.transformer_layers[place]
        for weight, value in zip(target.weights, source.weights, strict=True):
            weight.assign(value)
    return Gemma(backbone, vocabulary.tokenizer)
