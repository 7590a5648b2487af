"""The rotations of RoPE, computed once a forward pass instead of twice a layer."""

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import Any

import keras_hub
import tensorflow as tf

from gemma_tf_distill.gemma.replacing import replaced

Tables = tuple[tf.Tensor, tf.Tensor]


@contextlib.contextmanager
def shared_rotations(backbone: keras_hub.models.Gemma3Backbone, length: int) -> Iterator[None]:
    """In this context queries and keys of windows of `length` tokens are rotated by the same tables in all layers of a kind.

    The numbers are KerasHub's to the bit. What TensorFlow hands to XLA gets smaller, since it folds tables into constants: each layer,
    and each block that is computed twice, would have two of its own. To be entered by one thread at a time, outside of any function that is
    traced on its own.
    """
    tables: dict[str, Tables] = {}
    with contextlib.ExitStack() as stack:
        for block in backbone.transformer_layers:
            rope = block.attention.rope_layer
            kind = json.dumps({**rope.get_config(), "name": None, "width": block.attention.head_dim}, default=str)
            if kind not in tables:
                like = tf.zeros([1, length, 1, block.attention.head_dim], rope.compute_dtype)
                tables[kind] = rope._compute_cos_sin_embedding(like, 0, None)
            tabulated = functools.partial(_tabulated, tables[kind], rope._compute_cos_sin_embedding)
            stack.enter_context(replaced(rope, "_compute_cos_sin_embedding", tabulated))
        yield


def _tabulated(tables: Tables, former: Any, inputs: tf.Tensor, start_index: Any = 0, positions: tf.Tensor | None = None) -> Tables:
    known = positions is None and isinstance(start_index, int) and start_index == 0 and inputs.shape[1] == tables[0].shape[1]
    return tables if known else former(inputs, start_index, positions)
