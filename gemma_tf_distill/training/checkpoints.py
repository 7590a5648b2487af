"""Checkpoints of a run: the chief's are kept, and every process resumes from them."""

import shutil
import tempfile
from typing import Any

import tensorflow as tf

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.training.accumulation import summed_over_replicas
from gemma_tf_distill.training.strategies import first_replica, is_chief


class Checkpoints:
    """The last checkpoint of a run, in a folder that all its processes see.

    `tf.distribute` wants every process to save when one does; those that are not the chief do so into a folder that is thrown away.
    """

    def __init__(self, strategy: tf.distribute.Strategy, folder: str, **objects: Any):
        """Args:
        strategy: that the objects' variables were made under.
        folder: of the run.
        **objects: what is saved, by name.
        """
        self._strategy = strategy
        self._folder = folder
        self._checkpoint = tf.train.Checkpoint(**objects)
        self._kept = is_chief(strategy)
        self._manager: tf.train.CheckpointManager | None = None

    def restore(self) -> None:
        """Makes the objects what they were when the chief saved them last; does nothing where it has not."""
        latest = tf.train.latest_checkpoint(self._folder)
        if latest:
            self._checkpoint.restore(latest).assert_consumed()

    def agree(self, step: int) -> None:
        """Raises ConfigError unless all processes begin at the same step."""
        if self._strategy.num_replicas_in_sync == 1:
            return

        def total() -> tf.Tensor:
            return summed_over_replicas(tf.constant(step, tf.int32))

        replicas = self._strategy.num_replicas_in_sync
        mean = int(first_replica(self._strategy, tf.function(lambda: self._strategy.run(total))())) / replicas
        if mean != step:
            raise ConfigError(
                f"this process would go on at step {step}, and all of them on average at {mean:g}: {self._folder} must be in a folder that "
                "all hosts share, such as gs://…"
            )

    def save(self, step: int) -> None:
        """Saves the objects, in place of what was saved before."""
        if self._manager is None:
            folder = self._folder if self._kept else tempfile.mkdtemp(prefix="gemma-distill-")
            self._manager = tf.train.CheckpointManager(self._checkpoint, folder, max_to_keep=1)
        self._manager.save(step)

    def close(self) -> None:
        """Throws away what nobody resumes from."""
        if self._manager is not None and not self._kept:
            shutil.rmtree(self._manager.directory)
