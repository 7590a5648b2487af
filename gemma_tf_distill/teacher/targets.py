"""What a teacher says of each token: its k most probable words or words drawn from it, and the probability of the label."""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from gemma_tf_distill.config.checking import check
from gemma_tf_distill.data.examples import labels_and_mask, model_inputs
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.attention_in_place import efficient_attention
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma

# Words whose probabilities are added up at a time before one of them is drawn.
_BLOCK = 16


class Targets(NamedTuple):
    """Targets of windows [B, T] with N = T - 1 predictions each.

    Attributes:
      teacher_ids: int32 [B, N, k], the k best, best first, or k draws.
      teacher_log_probs: float32 [B, N, k], nats, at the scorer's temperature; of draws, the log of each one's share.
      teacher_label_log_prob: float32 [B, N], nats, at temperature 1.
    """

    teacher_ids: tf.Tensor
    teacher_log_probs: tf.Tensor
    teacher_label_log_prob: tf.Tensor


class TargetScorer:
    """Scores windows with a teacher, in chunks of tokens, so that [tokens, vocabulary] never exists."""

    def __init__(
        self, teacher: Gemma, *, top_k: int, temperature: float = 1.0, chunk: int = 512, attention: EfficientAttention | None = None
    ):
        """Args:
          teacher: over the vocabulary of the windows.
          top_k: words kept for each token.
          temperature: softens the stored distribution.
          chunk: tokens whose logits exist at a time.
          attention: how the teacher computes its; none: as KerasHub does.

        Raises:
          ConfigError: if `top_k` is below 1 or larger than the vocabulary, or the temperature not above 0.
        """
        check(top_k >= 1, "top_k of a TargetScorer", "at least 1", top_k)
        check(temperature > 0, "temperature of a TargetScorer", "above 0", temperature)
        vocabulary = teacher.backbone.vocabulary_size
        if top_k > vocabulary:
            raise ConfigError(f"distillation.top_k is {top_k}, but the vocabulary has {vocabulary} words: choose at most as many")
        self._teacher = teacher
        self._top_k = top_k
        self._temperature = temperature
        self._chunk = chunk
        self._attention = attention
        self._compiled = tf.function(self.score, jit_compile=True)

    def score(self, tokens: tf.Tensor) -> Targets:
        """Targets of windows int32 [B, T] of static shape; called within a `tf.function`, or through `__call__`."""

        def best(softened: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            log_probs, ids = tf.math.top_k(softened, k=self._top_k)
            return ids, log_probs

        return _scored(self._teacher, tokens, self._temperature, self._chunk, self._attention, best)

    def __call__(self, tokens: tf.Tensor) -> Targets:
        """The same, compiled by XLA."""
        return self._compiled(tokens)


class SampledTargetScorer:
    """Draws words in proportion to the teacher's probabilities (Gemma Team 2025, "Gemma 3 Technical Report", section 2.2).

    The cross-entropy of the draws, each with the weight 1 / draws, has the gradient of the forward KL in expectation. The draws of a
    token are systematic (Madow 1949): one random number places a comb of equal distances on the cumulative distribution. Each word is
    expected as often as in independent draws, and its number differs from that by less than one.
    """

    def __init__(
        self, teacher: Gemma, *, draws: int, temperature: float = 1.0, chunk: int = 512, attention: EfficientAttention | None = None
    ):
        """Args:
          teacher: over the vocabulary of the windows.
          draws: words drawn for each token.
          temperature: softens the distribution that is drawn from.
          chunk: tokens whose logits exist at a time.
          attention: how the teacher computes its; none: as KerasHub does.

        Raises:
          ConfigError: if `draws` is below 1, or the temperature not above 0.
        """
        check(draws >= 1, "draws of a SampledTargetScorer", "at least 1", draws)
        check(temperature > 0, "temperature of a SampledTargetScorer", "above 0", temperature)
        self._teacher = teacher
        self._draws = draws
        self._temperature = temperature
        self._chunk = chunk
        self._attention = attention
        self._compiled = tf.function(self.score, jit_compile=True)

    def score(self, tokens: tf.Tensor, uniforms: tf.Tensor) -> Targets:
        """Targets of windows of static shape; called within a `tf.function`, or through `__call__`.

        Args:
          tokens: int32 [B, T].
          uniforms: float32 [B, N] in [0, 1), which decide the words, so that these depend on the window and not on its batch.

        Returns:
          Drawn words with repetitions, each with the log-probability `-log(draws)`.
        """

        def draw(softened: tf.Tensor, uniforms: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            comb = (tf.range(self._draws, dtype=tf.float32) + uniforms[:, None]) / self._draws
            ids = _words_at(tf.exp(softened), comb)
            return ids, tf.fill(ids.shape, -math.log(self._draws))

        return _scored(self._teacher, tokens, self._temperature, self._chunk, self._attention, draw, uniforms)

    def __call__(self, tokens: tf.Tensor, uniforms: tf.Tensor) -> Targets:
        """The same, compiled by XLA."""
        return self._compiled(tokens, uniforms)


def _scored(
    teacher: Gemma,
    tokens: tf.Tensor,
    temperature: float,
    chunk: int,
    attention: EfficientAttention | None,
    choose: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    *of_tokens: tf.Tensor,
) -> Targets:
    """Runs the teacher, and `choose` on each chunk's log-probabilities float32 [C, V] and its share of `of_tokens` [B, N, ...]."""
    with efficient_attention(teacher.backbone, attention):
        hidden = teacher.backbone(model_inputs(tokens), training=False)
    labels, _ = labels_and_mask(tokens)
    batch, predictions = labels.shape
    total = batch * predictions
    chunk = min(chunk, total)
    chunks = -(-total // chunk)

    def in_chunks(x: tf.Tensor) -> tf.Tensor:
        x = tf.reshape(x, [total, *x.shape[2:]])
        x = tf.pad(x, [[0, chunks * chunk - total]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.reshape(x, [chunks, chunk, *x.shape[1:]])

    def score_chunk(values: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        states, labels, *others = values
        logits = tf.cast(teacher.backbone.token_embedding(states, reverse=True), tf.float32)
        log_probs = tf.nn.log_softmax(logits)
        softened = log_probs if temperature == 1 else tf.nn.log_softmax(logits / temperature)
        return *choose(softened, *others), tf.gather(log_probs, labels, batch_dims=1)

    found = tf.map_fn(
        score_chunk,
        tuple(in_chunks(x) for x in (hidden, labels, *of_tokens)),
        fn_output_signature=(tf.int32, tf.float32, tf.float32),
        parallel_iterations=1,
    )

    def whole(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.reshape(x, [chunks * chunk, *x.shape[2:]])[:total], [batch, predictions, *x.shape[2:]])

    return Targets(*map(whole, found))


def _words_at(probabilities: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """The word in whose share of the cumulative distribution a value falls.

    First its block of words, then the word in there: XLA's cumulative sum of a whole row takes twice the time on a CPU.

    Args:
      probabilities: float32 [C, V]; they need not sum to 1 to the last bit.
      values: float32 [C, R] in [0, 1), as shares of their sum.

    Returns:
      int32 [C, R].
    """
    rows, words = probabilities.shape
    blocks = -(-words // _BLOCK)
    parts = tf.reshape(tf.pad(probabilities, [[0, 0], [0, blocks * _BLOCK - words]]), [rows, blocks, _BLOCK])
    ends = tf.cumsum(tf.reduce_sum(parts, axis=-1), axis=-1)
    values = values * _below(ends[:, -1:])
    block = _first_above(ends, values)
    begins = tf.gather(tf.pad(ends, [[0, 0], [1, 0]]), block, batch_dims=1)
    inside = tf.cumsum(tf.gather(parts, block, batch_dims=1), axis=-1)
    # Rounding may put a value that is in a block behind all of it, where the next word may be one of no probability.
    offset = tf.minimum((values - begins)[..., None], _below(inside[..., -1:]))
    return block * _BLOCK + tf.reduce_sum(tf.cast(inside <= offset, tf.int32), axis=-1)


def _below(x: tf.Tensor) -> tf.Tensor:
    """A little less than a positive float32: by two to four of its last units."""
    return x * (1 - 2.0**-22)


def _first_above(cumulative: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """The first index whose cumulative sum is above a value, by bisection: float32 [C, V] and [C, R] to int32 [C, R].

    `tf.searchsorted` is not compiled by XLA.
    """
    last = cumulative.shape[-1] - 1
    low, high = tf.zeros(values.shape, tf.int32), tf.fill(values.shape, last)
    for _ in range(last.bit_length()):
        middle = (low + high) // 2
        above = tf.gather(cumulative, middle, batch_dims=1) > values
        low, high = tf.where(above, low, middle + 1), tf.where(above, middle, high)
    return tf.minimum(low, last)
