"""Learning where the teacher looks: attention maps of two layers, compared row by row."""

from collections.abc import Mapping

import keras_hub
import numpy as np
import tensorflow as tf

from gemma_tf_distill.gemma.taps import forward

# Squares of a row that sum to less are no direction: all that the softmax left on the keys that both see is below a millionth.
_LEAST_SQUARE = 1e-12


def attention_map_loss(student_map: tf.Tensor, teacher_map: tf.Tensor, mask: tf.Tensor, visible: tf.Tensor | None = None) -> tf.Tensor:
    """One minus the cosine of what a query of the student's and of the teacher's looks at, mean over heads.

    TinyBERT compares attention maps too (Jiao et al. 2020, eq. 7), by squared error; the cosine does not fade as rows grow longer.
    Where head counts differ and one divides the other, the larger is averaged in groups (query heads that follow each other share
    their keys); else both are averaged over all heads.

    Args:
      student_map: float32 [B, Hs, N, N], rows are queries.
      teacher_map: float32 [B, Ht, N, N]; no gradient goes there.
      mask: float32 [B, N], 1 where a query counts and 0 elsewhere.
      visible: bool [N, N] or [B, N, N], the keys that a query of either layer may see (`taps.visible_keys` of both, and-ed); all
        others are left out of the cosine. None: all are visible.

    Returns:
      float32 [B, N], between 0 (equal directions) and 1, and 0 where a query doesn't count or sees no key.
    """
    student, teacher = _of_equal_heads(student_map, tf.stop_gradient(teacher_map))
    if visible is not None:
        seen = tf.cast(tf.expand_dims(visible, -3), tf.float32)
        student, teacher = student * seen, teacher * seen
    # Half the squared distance of unit vectors is one minus their cosine, never below 0, and exact at equality.
    distances = 0.5 * tf.reduce_sum(tf.square(_directions(student) - _directions(teacher)), axis=-1)
    return tf.reduce_mean(distances, axis=1) * mask


def attention_similarity(
    teacher: keras_hub.models.Gemma3Backbone, student: keras_hub.models.Gemma3Backbone, inputs: Mapping[str, tf.Tensor]
) -> np.ndarray:
    """How alike two models' layers look at the same text, for `IntermediateLayerMapping`'s `adaptive`.

    Args:
      teacher: any depth and head count.
      student: over the same vocabulary.
      inputs: `token_ids` and `padding_mask`, int32 [B, N], of a few windows. The maps of all layers are held at once.

    Returns:
      float32 [student layers, teacher layers], between 0 and 1: the cosine of rows of head-averaged maps, mean over tokens.
    """
    counts = tf.cast(inputs["padding_mask"], tf.float32)

    def patterns(backbone: keras_hub.models.Gemma3Backbone) -> tf.Tensor:  # [layers, B, N, N]
        layers = backbone.num_layers
        maps = forward(backbone, inputs, attention_maps=range(layers), last=layers - 1).attention_maps
        return tf.stack([_directions(tf.reduce_mean(maps[layer], axis=1)) for layer in range(layers)])

    weighted = patterns(student) * counts[None, :, :, None]
    sums = tf.einsum("sbqk,tbqk->st", weighted, patterns(teacher))
    return (sums / tf.maximum(tf.reduce_sum(counts), 1.0)).numpy()


def _directions(rows: tf.Tensor) -> tf.Tensor:
    """Rows [..., N] at length 1; what is nearly zero stays so, without NaN, also in the gradient."""
    return rows * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(rows), axis=-1, keepdims=True), _LEAST_SQUARE))


def _of_equal_heads(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    mine, theirs = a.shape[1], b.shape[1]
    common = min(mine, theirs) if max(mine, theirs) % min(mine, theirs) == 0 else 1

    def averaged(maps: tf.Tensor) -> tf.Tensor:
        if maps.shape[1] == common:
            return maps
        return tf.reduce_mean(tf.reshape(maps, [-1, common, maps.shape[1] // common, *maps.shape[2:]]), axis=2)

    return averaged(a), averaged(b)
