"""How large gradients and updates are, for each kind of variable by itself."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from gemma_tf_distill.gemma.model import Gemma

GROUPS = ("embedding", "attention", "feed_forward", "norms", "projectors")


def groups_of(student: Gemma, variables: Sequence[keras.Variable]) -> list[str]:
    """The group of each variable, one of `GROUPS`; what is trained beside the student are projectors."""
    own = {id(variable) for variable in student.backbone.trainable_variables}
    return [_group(variable.path) if id(variable) in own else "projectors" for variable in variables]


def _group(path: str) -> str:
    # Norms of queries and keys lie inside of attention.
    if path.endswith("/scale"):
        return "norms"
    if "/attention/" in path:
        return "attention"
    return "embedding" if path.startswith("token_embedding") else "feed_forward"


def square_sum(tensor: tf.Tensor) -> tf.Tensor:
    """The sum of a tensor's squares, a float32 scalar."""
    # Half of it has a kernel of its own, which makes no tensor of squares where XLA doesn't compile.
    return 2 * tf.nn.l2_loss(tf.cast(tensor, tf.float32))


def group_norms(name: str, groups: Sequence[str], squares: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
    """Euclidean norms over all tensors of a group: float32 scalars, `name/group` each.

    Args:
      name: of what is measured.
      groups: one a tensor.
      squares: `square_sum` of each tensor.
    """
    sums: dict[str, tf.Tensor] = {}
    for group, square in zip(groups, squares, strict=True):
        sums[group] = sums[group] + square if group in sums else square
    return {f"{name}/{group}": tf.sqrt(square) for group, square in sums.items()}
