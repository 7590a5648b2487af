"""The student that was best on the held-out split, and when to stop looking for a better one."""

import math
import os
from collections.abc import Callable

import tensorflow as tf

from gemma_tf_distill.config import EarlyStoppingConfig
from gemma_tf_distill.monitoring.progress import warn
from gemma_tf_distill.training.heldout import HeldoutMetrics
from gemma_tf_distill.training.learner import Learner
from gemma_tf_distill.training.run import Run


class NoEarlyStopping:
    """What `EarlyStopping` is where the config asks for none: training takes all its steps, and the last student is kept.

    Attributes:
      variables: to be saved with the run.
      ends: whether training should end now.
    """

    def __init__(self) -> None:
        self.variables: list[tf.Variable] = []

    @property
    def ends(self) -> bool:
        """Never."""
        return False

    def look(self, step: int, total_steps: int) -> dict[str, float]:
        """Nobody looks."""
        return {}

    def keep_best(self, step: int, total_steps: int) -> None:
        """The last one is kept."""

    def close(self) -> None:
        """There is nothing to close."""


class EarlyStopping(NoEarlyStopping):
    """Looks at the held-out split now and then, keeps the best student beside the run's checkpoints, and says when it is enough.

    What it knows is saved with the run, so that a resumed one stops where the whole one would have stopped.
    """

    def __init__(
        self,
        config: EarlyStoppingConfig,
        evaluate: Callable[[], HeldoutMetrics],
        learner: Learner,
        run: Run,
        strategy: tf.distribute.Strategy,
    ):
        """Args:
        config: its section.
        evaluate: the student, as it is, on the held-out split; called by all processes.
        learner: whose weights are kept.
        run: name and folder.
        strategy: of the learner.
        """
        self._config = config
        self._evaluate = evaluate
        self._name = run.name
        self._control_nll = run.control_nll
        self._metric = config.metric if run.learn_from_teacher else "nll"
        super().__init__()
        self._kept = learner.weights_alone(strategy, os.path.join(run.checkpoints, "best"))
        # Read at every step: on an accelerator that would mean to wait for it.
        with tf.device("CPU:0"):
            self._best = tf.Variable(math.inf, dtype=tf.float64, trainable=False)
            self._best_step = tf.Variable(0, dtype=tf.int64, trainable=False)
            # Looks in a row that found no better student.
            self._stale = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.variables = [self._best, self._best_step, self._stale]

    @property
    def ends(self) -> bool:
        """Whether there were `patience` looks in a row without a better student."""
        return int(self._stale) >= self._config.patience

    def look(self, step: int, total_steps: int) -> dict[str, float]:
        """Evaluates the student where a look is due, after the last step too, and keeps it if it is the best.

        Args:
          step: steps taken.
          total_steps: of the run.

        Returns:
          The held-out figures by their names on TensorBoard; none where no look is due.
        """
        if step % self._config.every and step != total_steps:
            return {}
        found = self._evaluate()
        value = found.kl_to_teacher if self._metric == "kl" else found.nll
        # A value that is no number is below nothing.
        if value < float(self._best) - self._config.min_change:
            self._best.assign(value)
            self._best_step.assign(step)
            self._stale.assign(0)
            self._kept.save(step)
        else:
            self._stale.assign_add(1)
        return found.scalars(self._control_nll)

    def keep_best(self, step: int, total_steps: int) -> None:
        """Makes the student the best one that was seen, at the end of training, and tells a person where that is another than the last.

        Args:
          step: steps taken.
          total_steps: that were planned.
        """
        best_step = int(self._best_step)
        if not best_step or best_step == step:
            return
        self._kept.restore()
        ended = f"ended at step {step} of {total_steps}" if step < total_steps else f"took all {total_steps} steps"
        warn(
            f"{self._name}: training {ended}, the held-out {self._metric} was best at step {best_step} ({float(self._best):.4f} nats a "
            "token), and that student is kept"
        )

    def close(self) -> None:
        """Throws away what nobody reads."""
        self._kept.close()
