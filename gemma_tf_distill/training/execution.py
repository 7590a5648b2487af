"""Optimizer steps on all replicas of a strategy, several of them in one call."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from gemma_tf_distill.monitoring.progress import doing
from gemma_tf_distill.training.accumulation import replicas_in_sync, summed_over_replicas
from gemma_tf_distill.training.batch_loss import Batch, Metrics
from gemma_tf_distill.training.strategies import first_replica


class Executed(NamedTuple):
    """What some steps gave, on the device.

    Attributes:
      steps: that were taken.
      last: float32 scalars of the last one.
      summed: the same scalars, added up over all of them.
    """

    steps: int
    last: Metrics
    summed: Metrics


class Execution:
    """Calls a step for the next batches of an iterator.

    A step that is alone gets its batch from Python. Several run in a loop inside one `tf.function`, which asks the iterator itself: between
    them no Python runs, and nothing is read back.
    """

    def __init__(self, strategy: tf.distribute.Strategy, step: Callable[[Batch], Metrics], words: int):
        """Args:
        strategy: whose replicas the step runs on.
        step: a replica's, from its share of a batch to float32 scalars that are the same on all replicas.
        words: of the student; stored targets of others are counted.
        """
        self._strategy = strategy
        self._step = step
        self._words = words
        self._one = tf.function(self._run, autograph=False)
        self._several = tf.function(self._loop, autograph=False, reduce_retracing=True)
        self._called = False

    def __call__(self, iterator: Iterator[Batch], steps: int) -> Executed:
        """Takes so many steps.

        Returns:
          The step's scalars, and besides `window_tokens` (in a batch of all replicas), and `wrong_targets`, how many of the replicas'
          batches held targets that are not numbers or of words that there are not.
        """
        if not self._called:
            doing("compiling the training step")
            self._called = True
        if steps == 1:
            batch = next(iterator)
            with tf.profiler.experimental.Trace("student_step"):
                metrics = self._one(batch)
            return Executed(1, metrics, metrics)
        return Executed(steps, *self._several(iterator, tf.constant(steps)))

    def _run(self, batch: Batch) -> Metrics:
        return first_replica(self._strategy, self._strategy.run(self._replica, args=(batch,)))

    def _replica(self, batch: Batch) -> Metrics:
        replicas = replicas_in_sync()
        wrong = tf.cast(tf.logical_not(_targets_fit(batch, self._words)), tf.float32)
        return {
            **self._step(batch),
            "window_tokens": tf.constant(float(tf.TensorShape(batch["tokens"].shape).num_elements() * replicas)),
            "wrong_targets": summed_over_replicas(wrong) if replicas > 1 else wrong,
        }

    def _loop(self, iterator: Any, steps: tf.Tensor) -> tuple[Metrics, Metrics]:
        # The scalars' names are known only after a look at the step; an abstract trace gives them without computing anything.
        names = tf.function(self._run, autograph=False).get_concrete_function(iterator.element_spec).structured_outputs

        def more(index: tf.Tensor, last: Metrics, summed: Metrics) -> tuple[tf.Tensor, Metrics, Metrics]:
            metrics = self._run(next(iterator))
            return index + 1, metrics, {name: summed[name] + metrics[name] for name in names}

        zeros = {name: tf.constant(0.0) for name in names}
        _, last, summed = tf.while_loop(lambda index, *_: index < steps, more, (tf.constant(0), zeros, zeros))
        return last, summed


def _targets_fit(batch: Batch, words: int) -> tf.Tensor:
    """Whether a batch's stored targets are numbers, of words that there are. XLA would read a word's place beyond the last as the last."""
    if "teacher_ids" not in batch:
        return tf.constant(True)
    ids = batch["teacher_ids"]
    known = tf.reduce_all((ids >= 0) & (ids < words))
    return tf.logical_and(known, tf.reduce_all(tf.math.is_finite(batch["teacher_log_probs"])))
