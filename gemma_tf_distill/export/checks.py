"""What an export asks of a model, before anything is computed."""

import math
from collections.abc import Mapping
from typing import Any

from gemma_tf_distill.config import ExportConfig, QuantizationConfig
from gemma_tf_distill.export.litert import check_size
from gemma_tf_distill.export.litert_quantization import check_schemes
from gemma_tf_distill.quantization.layout import matmul_shapes, weight_schemes


def check_sizes(options: ExportConfig, quantization: QuantizationConfig, sizes: Mapping[str, Any]) -> None:
    """Checks that a model fits the formats and its scheme the model.

    Args:
      options: the formats.
      quantization: of the model.
      sizes: a backbone's config; a vocabulary that is not known yet has 0 words.

    Raises:
      ConfigError: if it is too large for a `.tflite`, or its scheme is none that it, or a `.tflite`, can have.
    """
    schemes = weight_schemes(quantization, sizes) if quantization.scheme else {}
    if "tflite" in options.formats:
        check_size(4 * sum(math.prod(shape) for shape in matmul_shapes(sizes).values()))
        check_schemes(schemes, sizes)
