"""KerasHub's Gemma 3 text presets: their names, and their sizes without a download."""

import difflib
import re
from typing import Any

import keras_hub

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.gemma.model import architecture

# Sizes from the published configurations; a test holds their parameter counts to KerasHub's registry.
_SIZES: dict[str, dict[str, Any]] = {
    "270m": dict(
        num_layers=18,
        hidden_dim=640,
        num_query_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        intermediate_dim=2048,
        sliding_window_size=512,
    ),
    "1b": dict(
        num_layers=26,
        hidden_dim=1152,
        num_query_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        intermediate_dim=6912,
        sliding_window_size=512,
    ),
    "4b": dict(
        num_layers=34,
        hidden_dim=2560,
        num_query_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        intermediate_dim=10240,
        sliding_window_size=1024,
    ),
    "12b": dict(
        num_layers=48,
        hidden_dim=3840,
        num_query_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        intermediate_dim=15360,
        sliding_window_size=1024,
    ),
    "27b": dict(
        num_layers=62,
        hidden_dim=5376,
        num_query_heads=32,
        num_key_value_heads=16,
        head_dim=128,
        intermediate_dim=21504,
        sliding_window_size=1024,
    ),
}
_ROPE_SCALED = ("4b", "12b", "27b")
_VOCABULARY = 262_144


def text_presets() -> dict[str, str]:
    """The text-only, causal Gemma 3 presets of the installed KerasHub: name to description."""
    presets = {name: preset["metadata"]["description"] for name, preset in keras_hub.models.Gemma3Backbone.presets.items()}
    return {name: description for name, description in presets.items() if "text-only" in description.lower()}


def check_preset(name: str, key: str = "teacher.source") -> None:
    """Raises WeightsError for a name that is not a Gemma 3 text preset and suggests the nearest one; `key` is the config's."""
    known = text_presets()
    if name in known:
        return
    near = f"{name}_text" if f"{name}_text" in known else next(iter(difflib.get_close_matches(name, known, n=1)), None)
    what = "is not a text-only model" if name in keras_hub.models.Gemma3Backbone.presets else "is not a KerasHub Gemma 3 text preset"
    hint = f"did you mean {near}?" if near else f"there are {', '.join(sorted(known))}"
    raise WeightsError(f"{key}: preset {name!r} {what}: {hint}")


def preset_architecture(name: str, key: str = "teacher.source") -> dict[str, Any]:
    """The arguments of `Gemma3Backbone` for a text preset, without a download; raises WeightsError as `check_preset` does."""
    check_preset(name, key)
    size = re.search(r"_(270m|1b|4b|12b|27b)(_|$)", name)
    if size is None:
        raise WeightsError(f"{key}: the sizes of preset {name!r} are not known without its weights: use student.sizes")
    scaling = 8.0 if size[1] in _ROPE_SCALED else 1.0
    return architecture(vocabulary_size=_VOCABULARY, global_rope_scaling_factor=scaling, **_SIZES[size[1]])
