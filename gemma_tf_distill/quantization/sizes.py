"""What Gemma 3 models take in each format, from their shapes alone: no weight is allocated."""

import math
from typing import NamedTuple

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.gemma.presets import preset_architecture
from gemma_tf_distill.quantization.layout import EMBEDDING, matmul_shapes, weight_schemes

_PRESETS = {"1b": "gemma3_1b", "4b": "gemma3_4b_text", "12b": "gemma3_12b_text", "27b": "gemma3_27b_text"}
_FORMATS = {
    "bf16": QuantizationConfig(),
    "int4": QuantizationConfig(scheme="int4_channel"),
    "int4_block32": QuantizationConfig(scheme="int4_block32"),
    "fp8": QuantizationConfig(scheme="fp8_e4m3"),
}
# Gemma Team 2025, "Gemma 3 Technical Report", table 3: GB of weights. SFP8 is an 8-bit float.
REPORTED = {
    "1b": {"bf16": 2.0, "int4": 0.5, "int4_block32": 0.7, "fp8": 1.0},
    "4b": {"bf16": 8.0, "int4": 2.6, "int4_block32": 2.9, "fp8": 4.4},
    "12b": {"bf16": 24.0, "int4": 6.6, "int4_block32": 7.1, "fp8": 12.4},
    "27b": {"bf16": 54.0, "int4": 14.1, "int4_block32": 15.3, "fp8": 27.4},
}
# Of the encoder that the 4B and larger carry and a text model leaves out (table 1).
_VISION_WEIGHTS = 417e6


class Comparison(NamedTuple):
    """A size beside the report's.

    Attributes:
      text: GB of the text model.
      reported: GB in the report, which do not say what else is in them.
      nearest: GB of that count of ours which comes nearest to them.
      counted: what is in it.
      difference: of `nearest` from the report's, as a fraction.
    """

    text: float
    reported: float
    nearest: float
    counted: str
    difference: float


def size_table() -> dict[str, dict[str, float]]:
    """GB (10^9 bytes) of the text-only 1B, 4B, 12B and 27B in bfloat16, int4 per channel, int4 in blocks of 32 and FP8, with scales."""
    return {model: {name: _gigabytes(model, config) for name, config in _FORMATS.items()} for model in _PRESETS}


def report_comparison() -> dict[str, dict[str, Comparison]]:
    """The same beside table 3 of the Gemma 3 report.

    The report's figures for the 4B and larger lie between the text model and the text model with its vision encoder in bfloat16, in every
    format (the 27B in bfloat16, 54.0, is the text model rounded). Which of the two, or the encoder in 8 bits, or the embedding in 8 bits
    beside blocks of 4, is nearest is said for each. One figure is further off than 5 %: the 4B in int4, between the encoder in 8 and in 16
    bits. The report's int4 figures are half a byte for each of 4, 12 and 27 billion weights and 0.6 GB.
    """
    return {model: {name: _compare(model, name) for name in _FORMATS} for model in _PRESETS}


def _gigabytes(model: str, config: QuantizationConfig) -> float:
    sizes = preset_architecture(_PRESETS[model])
    schemes = weight_schemes(config, sizes) if config.scheme else {}
    shapes = matmul_shapes(sizes)
    # The norms, 0.03 % of the 1B's weights and less of the others', stay in bfloat16 and are left out.
    return sum(schemes[name].bytes_for(*shape) if name in schemes else 2 * math.prod(shape) for name, shape in shapes.items()) / 1e9


def _compare(model: str, name: str) -> Comparison:
    text, reported = _gigabytes(model, _FORMATS[name]), REPORTED[model][name]
    counts = {"text model": text}
    if model != "1b":
        widths = (16,) if name == "bf16" else (8, 16)
        counts |= {f"text model and vision encoder in {bits} bits": text + _VISION_WEIGHTS * bits / 8e9 for bits in widths}
    if name == "int4_block32":
        mixed = QuantizationConfig(scheme="int4_block32", overrides={EMBEDDING: "int8_channel"})
        counts["text model, its embedding in 8 bits"] = _gigabytes(model, mixed)
    counted, nearest = min(counts.items(), key=lambda count: abs(count[1] - reported))
    return Comparison(text, reported, nearest, counted, nearest / reported - 1)
