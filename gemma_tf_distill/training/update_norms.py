"""How far the latest step moved what is trained, measured when somebody looks."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from gemma_tf_distill.training.group_norms import group_norms, square_sum
from gemma_tf_distill.training.optimizers import TakesSums
from gemma_tf_distill.training.strategies import first_replica


class UpdateNorms:
    """Norms of the latest step's updates by group.

    The optimizer's slots tell them afterwards, so that steps do nothing for it: a look passes over weights and slots once.
    """

    def __init__(self, optimizer: TakesSums, variables: Sequence[keras.Variable], groups: Sequence[str], strategy: tf.distribute.Strategy):
        """Args:
        optimizer: built for the variables.
        variables: what is trained.
        groups: of each of them.
        strategy: whose replicas hold them, each all of them.
        """
        self._optimizer = optimizer
        self._variables = list(variables)
        self._groups = list(groups)
        self._measure = tf.function(lambda: first_replica(strategy, strategy.run(self._norms)), autograph=False)

    def read(self) -> dict[str, float]:
        """`train/update_norm/…` of each group, after at least one step."""
        norms = self._measure()
        values = tf.stack(list(norms.values())).numpy().tolist()
        return {f"train/{name}": value for name, value in zip(norms, values, strict=True)}

    def _norms(self) -> dict[str, tf.Tensor]:
        return group_norms("update_norm", self._groups, self._optimizer.latest_updates(self._variables, square_sum))
