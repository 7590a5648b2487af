"""Gradients of a batch, a part at a time: the memory of a part, the gradient of the whole."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.training.batch_loss import Batch, Metrics, batch_loss, counting_mask
from gemma_tf_distill.training.group_norms import group_norms, square_sum
from gemma_tf_distill.training.optimizers import TakesSums
from gemma_tf_distill.training.teacher_outputs import Teacher

# From a part of the batch, teacher, student, the tokens that count in the whole batch, and the part's index, to float32 scalars.
PartLoss = Callable[[Batch, Teacher | None, Gemma, tf.Tensor, tf.Tensor], Metrics]
# From a batch and the tokens that count in all of it, to the scalars and the gradients of a replica's share.
Gradients = Callable[[Batch, tf.Tensor], tuple[Metrics, list[tf.Tensor]]]


def gradient_accumulation_step(
    teacher_model: Teacher | None,
    student_model: Gemma,
    optimizer: keras.Optimizer,
    batch: Batch,
    accumulation_steps: int,
    *,
    loss: PartLoss | None = None,
    variables: Sequence[keras.Variable] | None = None,
    clip_norm: float | None = None,
    compiled: Callable[[Gradients], Gradients] | None = None,
    groups: Sequence[str] | None = None,
) -> Metrics:
    """One optimizer step on a batch that is read in parts: the update of the whole batch, with the memory of a part.

    To be called inside a `tf.function`, compiled by XLA or not, or inside `strategy.run`: the tokens that count and the gradients are
    summed over the replicas, so that each token weighs the same wherever it is.

    Args:
      teacher_model: live, elsewhere, or none where the batch has stored targets.
      student_model: the model to train.
      optimizer: built for `variables`.
      batch: as `DistillationTrainer.train_step` takes it, [B, ...] with static shapes; in a replica, its share.
      accumulation_steps: parts, a divisor of B.
      loss: what to minimise, `loss` among its scalars, each a sum over tokens divided by the count it is given; none:
        `batch_loss` with the default config.
      variables: what to train; none: all of the student's.
      clip_norm: global gradient norm above which gradients are scaled down; none: they are not.
      compiled: compiles what a replica computes by itself, where the step as a whole is not compiled; none: as it is.
      groups: of the variables, one name each, whose gradients' norms are told by themselves; none: only that of all of them.

    Returns:
      The loss's scalars for the whole batch, `gradient_norm` (before clipping) and `tokens` (that count); for each group also
      `gradient_norm/group`.

    Raises:
      ConfigError: if the windows cannot be cut into that many equal parts.
    """
    if loss is None:
        loss = _default_loss
    if variables is None:
        variables = student_model.backbone.trainable_variables
    mask = counting_mask(batch)
    counted, replicas = tf.reduce_sum(mask), replicas_in_sync()
    if replicas > 1:
        counted = summed_over_replicas(counted)

    def gradients_of(batch: Batch, counted: tf.Tensor) -> tuple[Metrics, list[tf.Tensor]]:
        def part_loss(part: Batch, index: tf.Tensor) -> Metrics:
            return loss(part, teacher_model, student_model, tf.maximum(counted, 1.0), index)

        return accumulated_gradients(part_loss, batch, [variable.value for variable in variables], accumulation_steps)

    terms, gradients = (gradients_of if compiled is None else compiled(gradients_of))({**batch, "mask": mask}, counted)
    if replicas > 1:
        terms, gradients = summed_over_replicas((terms, gradients))
    # Clipping needs the sum of all squares, of which those of the groups are parts.
    squares = [square_sum(gradient) for gradient in gradients]
    norm = tf.sqrt(tf.add_n(squares))
    norms = {} if groups is None else group_norms("gradient_norm", groups, squares)
    if clip_norm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)
    if replicas > 1 and not isinstance(optimizer, TakesSums):
        # Keras' own sum gradients over the replicas once more, where by now they are equal.
        gradients = [gradient / replicas for gradient in gradients]
    optimizer.apply(gradients, variables)
    return {**terms, "gradient_norm": norm, **norms, "tokens": counted}


def replicas_in_sync() -> int:
    """How many replicas share this step: 1 outside of `strategy.run`."""
    return 1 if tf.distribute.in_cross_replica_context() else tf.distribute.get_strategy().num_replicas_in_sync


def replica_index() -> int | tf.Tensor:
    """Which of these replicas this is, from 0; int32 where it is known only when the step runs."""
    return 0 if tf.distribute.in_cross_replica_context() else tf.distribute.get_replica_context().replica_id_in_sync_group


def summed_over_replicas(values: Any) -> Any:
    """Tensors, in any structure, summed over the replicas that share this step."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def check_parts(windows: int, parts: int) -> None:
    """Raises ConfigError unless a batch of so many windows can be cut into so many equal parts."""
    if parts < 1 or windows % parts:
        raise ConfigError(f"a batch of {windows} windows cannot be cut into {parts} equal parts: choose a divisor of {windows}")


def accumulated_gradients(
    loss_of: Callable[[Batch, tf.Tensor], Metrics], batch: Batch, variables: Sequence[tf.Variable], steps: int
) -> tuple[Metrics, list[tf.Tensor]]:
    """Sums the terms and gradients of `steps` equal parts of a batch, one after the other.

    Where the terms are sums over tokens divided by the number of tokens in the whole batch, the sum over the parts is the term, and
    its gradient, of the whole batch, however the tokens that count are spread over the parts.

    Args:
      loss_of: from a part of the batch and its index (int32 scalar) to float32 scalars, of which `loss` is differentiated.
      batch: tensors [B, ...] of static shape; B is a multiple of `steps`.
      variables: what to differentiate by.
      steps: number of parts, at least 1.

    Returns:
      The summed scalars, and the summed gradients, float32, one a variable.

    Raises:
      ConfigError: if the windows cannot be cut into that many equal parts.
    """

    def part_gradients(part: Batch, index: tf.Tensor) -> tuple[Metrics, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            # Variables are watched anyhow; in a `keras.StatelessScope` their values are tensors.
            tape.watch([variable for variable in variables if isinstance(variable, tf.Tensor)])
            terms = loss_of(part, index)
        gradients = tape.gradient(terms["loss"], variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return terms, [tf.cast(tf.convert_to_tensor(gradient), tf.float32) for gradient in gradients]

    if steps == 1:
        return part_gradients(batch, tf.constant(0))
    windows = next(iter(batch.values())).shape[0]
    check_parts(windows, steps)
    size = windows // steps

    def part(index: tf.Tensor) -> Batch:
        return {
            name: tf.slice(value, [index * size] + [0] * (value.shape.rank - 1), [size, *value.shape[1:]]) for name, value in batch.items()
        }

    def add(index: tf.Tensor, terms: Metrics, gradients: list[tf.Tensor]) -> tuple[tf.Tensor, Metrics, list[tf.Tensor]]:
        new_terms, new_gradients = part_gradients(part(index), index)
        summed = {name: terms[name] + new_terms[name] for name in terms}
        return index + 1, summed, [a + b for a, b in zip(gradients, new_gradients, strict=True)]

    # The names of the terms are known only after a look at the loss; an abstract trace gives them without computing anything.
    specs = {name: tf.TensorSpec([size, *value.shape[1:]], value.dtype) for name, value in batch.items()}
    names = tf.function(loss_of).get_concrete_function(specs, tf.TensorSpec([], tf.int32)).structured_outputs
    zeros = {name: tf.constant(0.0) for name in names}, [tf.zeros(variable.shape) for variable in variables]
    _, terms, gradients = tf.while_loop(lambda index, *_: index < steps, add, (tf.constant(0), *zeros), maximum_iterations=steps)
    return terms, gradients


def _default_loss(part: Batch, teacher: Teacher | None, student: Gemma, token_count: tf.Tensor, index: tf.Tensor) -> Metrics:
    return batch_loss(part, teacher, student, token_count, distillation=DistillationConfig())
