"""Models without weights: their variables have shapes and dtypes, and get tensors in a `keras.StatelessScope`."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import keras
import keras_hub

from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.tokenizer import Tokenizer


def abstract_gemma(sizes: Mapping[str, Any], dtype: str) -> Gemma:
    """A Gemma of these sizes that takes no memory.

    Args:
      sizes: the arguments of `keras_hub.models.Gemma3Backbone`, as `architecture` and `describe_source` give them.
      dtype: Keras' policy for weights and computation.

    Returns:
      A model to be traced with its variables mapped to tensors; its tokenizer has a number of words and no pieces.
    """
    sizes = {name: value for name, value in sizes.items() if name not in ("name", "trainable", "dtype")}
    with keras.StatelessScope(initialize_variables=False):
        backbone = keras_hub.models.Gemma3Backbone(**sizes, dtype=dtype)
    return Gemma(backbone, cast(Tokenizer, SimpleNamespace(vocabulary_size=sizes["vocabulary_size"], proto=b"", pad_id=0)))
