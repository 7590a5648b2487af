"""Going back to the last good checkpoint with a lower learning rate."""

import tensorflow as tf

from gemma_tf_distill.config import DivergenceConfig
from gemma_tf_distill.monitoring.progress import warn
from gemma_tf_distill.training.checkpoints import Checkpoints
from gemma_tf_distill.training.divergence import DivergenceError


class RollBack:
    """Answers a divergence as the config says.

    Attributes:
      rate_factor: float32 variable by which the learning rate is multiplied; none where nothing goes back.
      variables: to be saved with the run.
    """

    def __init__(self, config: DivergenceConfig, name: str, strategy: tf.distribute.Strategy):
        """Args:
        config: its section.
        name: of the run.
        strategy: whose replicas read the factor.
        """
        self._config = config
        self._name = name
        self._times = 0
        self.rate_factor = None
        if config.action == "roll_back":
            with strategy.scope():
                self.rate_factor = tf.Variable(1.0, trainable=False, name="rate_factor")
        self.variables = [] if self.rate_factor is None else [self.rate_factor]

    def answer(self, error: DivergenceError, checkpoints: Checkpoints) -> None:
        """Restores what was saved last and lowers the learning rate, and tells a person.

        Raises:
          DivergenceError: the given one, if the config says to stop, or it went back as often as it may.
        """
        if self.rate_factor is None or self._times >= self._config.retries:
            raise error
        self._times += 1
        factor = float(self.rate_factor.numpy()) * self._config.rate_factor
        checkpoints.restore()
        self.rate_factor.assign(factor)
        warn(f"{self._name}: {error}; going back to the last checkpoint, with {factor:g} times the learning rate")
