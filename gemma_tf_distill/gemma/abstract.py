"""Models without weights: their variables have shapes and dtypes, and get tensors in a `keras.StatelessScope`."""

import contextlib
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import keras
import keras_hub
from keras.src.backend.common import global_state

from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.tokenizer import Tokenizer


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """In this context Keras' variables are made without values, and never get any.

    A `keras.StatelessScope` alone leaves them on Keras' list of those that wait for a value, and the next model that is made anywhere
    in the process would fill them all: gigabytes, for a model that was only looked at.
    """
    waiting = list(global_state.get_global_attribute("uninitialized_variables") or [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute("uninitialized_variables", waiting)


def abstract_gemma(sizes: Mapping[str, Any], dtype: str) -> Gemma:
    """A Gemma of these sizes that takes no memory.

    Args:
      sizes: the arguments of `keras_hub.models.Gemma3Backbone`, as `architecture` and `describe_source` give them.
      dtype: Keras' policy for weights and computation.

    Returns:
      A model to be traced with its variables mapped to tensors; its tokenizer has a number of words and no pieces.
    """
    sizes = {name: value for name, value in sizes.items() if name not in ("name", "trainable", "dtype")}
    with without_values():
        backbone = keras_hub.models.Gemma3Backbone(**sizes, dtype=dtype)
    return Gemma(backbone, cast(Tokenizer, SimpleNamespace(vocabulary_size=sizes["vocabulary_size"], proto=b"", pad_id=0)))
