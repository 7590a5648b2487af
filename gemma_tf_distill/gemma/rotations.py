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
def shared_rotations(backbone: keras_hub.models.Gemma3Backbone, padding_mask: tf.Tensor) -> Iterator[None]:
    """In this context queries and keys of whole windows are rotated by the same tables in all layers of a kind.

    The numbers are KerasHub's to the bit. What TensorFlow hands to XLA gets smaller: of constant positions it makes constant tables,
    written out again for each reader, in each layer and each block that is computed twice. Here positions depend on an argument.
    To be entered by one thread at a time.

    Args:
      backbone: the model.
      padding_mask: int32 [B, N], not below 0, of the windows that are read.
    """
    length = padding_mask.shape[1]
    if length is None:
        yield
        return
    # The second term is 0, which no compiler can know.
    positions = tf.range(length) + tf.minimum(padding_mask[0], 0)
    tables: dict[str, Tables] = {}
    with contextlib.ExitStack() as stack:
        for block in backbone.transformer_layers:
            rope = block.attention.rope_layer
            kind = json.dumps({**rope.get_config(), "name": None, "width": block.attention.head_dim}, default=str)
            if kind not in tables:
                like = tf.zeros([1, length, 1, block.attention.head_dim], rope.compute_dtype)
                tables[kind] = rope._compute_cos_sin_embedding(like, 0, positions)
            tabulated = functools.partial(_tabulated, tables[kind], rope._compute_cos_sin_embedding)
            stack.enter_context(replaced(rope, "_compute_cos_sin_embedding", tabulated))
        yield


def _tabulated(tables: Tables, former: Any, inputs: tf.Tensor, start_index: Any = 0, positions: tf.Tensor | None = None) -> Tables:
    known = positions is None and isinstance(start_index, int) and start_index == 0 and inputs.shape[1] == tables[0].shape[1]
    return tables if known else former(inputs, start_index, positions)
