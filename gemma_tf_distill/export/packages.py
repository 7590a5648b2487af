"""Whether the optional packages that a step needs are installed. Needs no TensorFlow, so that it is told at once."""

import importlib.util

from gemma_tf_distill.config import ExportConfig, QuantizationConfig
from gemma_tf_distill.errors import MissingExtraError


def check_package(module: str, extra: str, purpose: str) -> None:
    """Raises MissingExtraError unless a module is installed."""
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(module.replace("_", "-"), extra, purpose)


def check_export_packages(options: ExportConfig, quantization: QuantizationConfig) -> None:
    """Raises MissingExtraError for the first package that a format needs and that is not installed."""
    needed = {
        "tflite": ("litert", ["ai_edge_litert", *(["ai_edge_quantizer"] if quantization.scheme else [])]),
        "litertlm": ("litert", ["litert_lm", "litert_lm_builder"]),
        "hugging_face": ("transformers", ["safetensors", "torch", "transformers"]),
    }
    for format in options.formats:
        extra, modules = needed.get(format, ("", []))
        for module in modules:
            check_package(module, extra, f"export.formats with {format}")
