"""Layers that are left out at random while training, the later ones more often, and all of them more often as training goes on."""

import tensorflow as tf

from gemma_tf_distill.config.checking import check


class ProgressiveDropout:
    """Stochastic depth whose rates grow with depth and with training.

    Layer l of L (from 1) has the rate `base_rate l / L` at the end of training (Huang et al. 2016, "Deep Networks with Stochastic
    Depth", eq. 4), and `progress` times that before: a student that knows nothing yet trains whole, as in progressive layer dropping
    (Zhang & He 2020, section 4.2; their ramp is exponential, this one linear). Without scales (evaluation), the student is whole.

    Attributes:
      dropout_rates: the rate of each layer at the end of training, from the first layer to the last.
    """

    def __init__(self, num_layers: int, base_rate: float):
        """Args:
          num_layers: L.
          base_rate: the last layer's rate at the end of training, at least 0 and below 1.

        Raises:
          ConfigError: if one is out of range.
        """
        check(num_layers >= 1, "num_layers of layer dropout", "at least 1", num_layers)
        check(0 <= base_rate < 1, "base_rate of layer dropout", "at least 0 and below 1", base_rate)
        self.dropout_rates = tuple(base_rate * layer / num_layers for layer in range(1, num_layers + 1))

    def layer_scales(self, progress: tf.Tensor, batch_size: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws which layers each window goes through; the same seed draws the same. Works eagerly, in a `tf.function` and under XLA.

        Args:
          progress: float32 scalar, 0 at the first step and 1 at the last.
          batch_size: windows, B.
          seed: int32 [2].

        Returns:
          float32 [num_layers, B], factors on what each layer adds: 0, or 1 / (1 - rate), so that 1 is expected.
        """
        rates = progress * tf.constant(self.dropout_rates)[:, None]
        drawn = tf.random.stateless_uniform([len(self.dropout_rates), batch_size], seed)
        return tf.where(drawn < rates, 0.0, 1 / (1 - rates))
