"""Operations that training needs, by the sizes of a model."""

from collections.abc import Mapping
from typing import Any


def training_flops(sizes: Mapping[str, Any], predictions: int) -> float:
    """Operations for each token of a forward and a backward pass: 6 a weight, and 12 times layers, width of attention and length (Chowdhery
    et al. 2022, "PaLM", appendix B). A forward pass alone takes a third.

    Args:
      sizes: a `Gemma3Backbone`'s config.
      predictions: of a window, its length less one.
    """
    width, heads = sizes["hidden_dim"], sizes["num_query_heads"] * sizes["head_dim"]
    block = width * (2 * heads + 2 * sizes["num_key_value_heads"] * sizes["head_dim"] + 3 * sizes["intermediate_dim"])
    weights = sizes["num_layers"] * block + sizes["vocabulary_size"] * width
    return 6.0 * weights + 12.0 * sizes["num_layers"] * heads * predictions
