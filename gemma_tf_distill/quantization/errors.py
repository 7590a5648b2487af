"""What rounding does to each matrix of a model."""

import numpy as np

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.apply import quantized_weights
from gemma_tf_distill.quantization.layout import matmul_weights


def rounding_errors(model: Gemma, config: QuantizationConfig) -> dict[str, float]:
    """The relative error of every matrix that a scheme stores: `|rounded - W| / |W|`, in Frobenius norms; 0 of a matrix of zeros.

    Args:
      model: in float; it is not changed.
      config: with a scheme.

    Raises:
      ConfigError: as of `quantized_weights`.
      WeightsError: likewise.
    """
    weights, errors = matmul_weights(model.backbone), {}
    for name, stored in quantized_weights(model, config).items():
        rows = np.asarray(weights[name].rows(weights[name].variable.value), np.float32)
        blocks = rows.reshape(*stored.scales.shape, -1)
        rounded = stored.codes.astype(np.float32).reshape(blocks.shape) * stored.scales[..., None]
        length = float(np.linalg.norm(blocks))
        errors[name] = float(np.linalg.norm(rounded - blocks)) / length if length else 0.0
    return errors
