"""The student's own words, for its teacher to judge (Agarwal et al. 2024, "On-Policy Distillation of Language Models", GKD).

A student that only ever sees texts of others meets, when it writes, mistakes of its own that nobody told it what to do after.
"""

import tensorflow as tf

from gemma_tf_distill.config import OnPolicyConfig
from gemma_tf_distill.data.examples import labels_and_mask
from gemma_tf_distill.data.packing import BOS_ID, EOS_ID, PAD_ID
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.functional import Cache, empty_cache, hidden_states, logits, shape_of, weight_tensors
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.apply import ModelQuantization, forward_as

# Apart from the draws of a step's dropouts, which begin with the same seed and step.
_SALT = 0x5EED


class OnPolicySampler:
    """Replaces a share of the batches by windows whose first tokens are the corpus's and whose others the student draws."""

    def __init__(
        self,
        student: Gemma,
        config: OnPolicyConfig,
        window: int,
        seed: int,
        quantization: ModelQuantization | None = None,
        jit_compile: bool = True,
    ):
        """Args:
          student: its weights are read anew for every batch.
          config: share, prompt length, temperature.
          window: T.
          seed: of the choice of batches and of the words drawn.
          quantization: of the student, which then writes with its weights as they will be stored; what enters its products stays float.
          jit_compile: by XLA; else a batch takes longer, and the first one much less.

        Raises:
          ConfigError: if the prompt leaves nothing of the window to write.
        """
        if config.prompt_tokens >= window:
            raise ConfigError(
                f"distillation.on_policy.prompt_tokens is {config.prompt_tokens}, which leaves the student nothing to write of a window "
                f"of {window} tokens: choose fewer than corpus.window"
            )
        self._student = student
        self._shape = shape_of(student)
        self._config = config
        self._window = window
        self._seed = seed ^ _SALT
        self._quantization = quantization
        self._compiled = tf.function(self._continued, jit_compile=jit_compile)

    def chooses(self, step: int) -> bool:
        """Whether the batch of this step, counted from 0, is the student's to continue: true for a share of `config.fraction`."""
        return float(tf.random.stateless_uniform([], [self._seed, step])) < self._config.fraction

    def __call__(self, tokens: tf.Tensor, step: int) -> dict[str, tf.Tensor]:
        """Keeps the beginning of each window and lets the student write on.

        Args:
          tokens: int32 [B, T].
          step: decides the words drawn.

        Returns:
          `tokens` int32 [B, T], padded after a word that ends the text; `mask` float32 [B, N], 1 at the student's words. A window
          that is padding already within the prompt counts nowhere.
        """
        return self._compiled(tokens, tf.constant([self._seed, step], tf.int32))

    def _continued(self, tokens: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        with forward_as(self._quantization, training=False):
            weights = weight_tensors(self._student)
        batch, prompt = tokens.shape[0], self._config.prompt_tokens
        cache = empty_cache(self._shape, batch, self._window)
        states, cache = hidden_states(self._shape, weights, tokens[:, :prompt], cache, slots=tf.range(prompt))
        written = tf.concat([tokens[:, :prompt], tf.fill([batch, self._window - prompt], PAD_ID)], axis=1)

        def write(
            place: tf.Tensor, last: tf.Tensor, running: tf.Tensor, written: tf.Tensor, cache: Cache
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, Cache]:
            scores = logits(self._shape, weights, last) / self._config.temperature
            # The largest of scores and Gumbel noise is a draw from their softmax (Gumbel 1954; Maddison et al. 2014, section 2).
            noise = tf.random.stateless_uniform(scores.shape, seed + tf.stack([place, 0]), minval=1e-20)
            drawn = tf.argmax(scores - tf.math.log(-tf.math.log(noise)), axis=-1, output_type=tf.int32)
            word = tf.where(running, drawn, PAD_ID)
            rows = tf.stack([tf.range(batch), tf.fill([batch], place)], axis=-1)
            written = tf.tensor_scatter_nd_update(written, rows, word)
            states, cache = hidden_states(self._shape, weights, word[:, tf.newaxis], cache, slots=place[tf.newaxis])
            ends = tf.logical_or(word == EOS_ID, tf.logical_or(word == PAD_ID, word == BOS_ID))
            return place + 1, states[:, 0], tf.logical_and(running, tf.logical_not(ends)), written, cache

        running = tokens[:, prompt - 1] != PAD_ID
        _, _, _, written, _ = tf.while_loop(
            lambda place, *_: place < self._window,
            write,
            (tf.constant(prompt), states[:, -1], running, written, cache),
            maximum_iterations=self._window - prompt,
        )
        _, counts = labels_and_mask(written)
        own = tf.range(1, self._window) >= prompt
        return {"tokens": written, "mask": counts * tf.cast(own, tf.float32)}
