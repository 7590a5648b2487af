"""Sums over the tokens of a window or a text, one at a time, so that they can be added and divided later: what the Evaluator measures."""

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from gemma_tf_distill.data.examples import labels_and_mask, parse_scored
from gemma_tf_distill.gemma.functional import GemmaShape, hidden_states, logits
from gemma_tf_distill.transfer.divergences import top_k_forward_kl

# TFMA may send a thousand windows at once: hidden states are made for about this many tokens at a time, and logits for so many numbers.
_TOKENS_AT_A_TIME = 2_048
_LOGITS_AT_A_TIME = 2**24

SUMS = ("nll_sum", "kl_sum", "top1_hits", "top5_hits", "teacher_nll_sum", "token_count", "byte_count")
CALIBRATION = ("calibration_gaps", "teacher_calibration_gaps")
# Bins of confidence, of equal width (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4, which has 15).
CALIBRATION_BINS = 15


def token_sums(
    shape: GemmaShape, weights: Mapping[str, tf.Tensor], examples: tf.Tensor, byte_lengths: tf.Tensor, window: int, top_k: int
) -> dict[str, tf.Tensor]:
    """Evaluates scored windows.

    Args:
      shape: the model's shape.
      weights: its weights (see `gemma.functional.weights_of`).
      examples: string [B], serialized tf.Examples (see `data.examples.scored_example`).
      byte_lengths: int32 [V], UTF-8 bytes that each word stands for.
      window: tokens in a window.
      top_k: teacher words a token.

    Returns:
      float32 [B] each, sums over the labels that count (neither padding nor `<bos>`), in nats: `nll_sum`, the cross-entropy;
      `kl_sum`, KL(teacher || student) over the teacher's words and one tail bucket; `top1_hits`, tokens where student and
      teacher rank the same word first; `top5_hits`, tokens where the teacher's first word is among the student's first five;
      `teacher_nll_sum`, the teacher's own cross-entropy; `token_count`; `byte_count`, bytes of the labels.
      float32 [B, 15] each, by confidence (the probability of the most probable word; bin m of 15 holds those in (m / 15, (m + 1) / 15]):
      `calibration_gaps`, how many of those words are the label less the sum of their confidences; `teacher_calibration_gaps`.
    """
    batch = parse_scored(examples, window, top_k)
    labels, mask = labels_and_mask(batch["tokens"])
    predictions = window - 1

    def windows(tokens: tf.Tensor, labels: tf.Tensor, teacher_ids: tf.Tensor, teacher_log_probs: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        hidden, _ = hidden_states(shape, weights, tokens)

        def terms(hidden: tf.Tensor, labels: tf.Tensor, teacher_ids: tf.Tensor, teacher_log_probs: tf.Tensor) -> tf.Tensor:
            scores = logits(shape, weights, hidden)
            log_probs = tf.nn.log_softmax(scores)
            nll = -tf.gather(log_probs, labels, batch_dims=1)
            kl = top_k_forward_kl(log_probs, teacher_ids, teacher_log_probs)
            best = tf.argmax(scores, axis=-1, output_type=tf.int32)
            teachers_best = teacher_ids[:, 0]
            before = tf.reduce_sum(tf.cast(scores > tf.gather(scores, teachers_best, batch_dims=1)[:, tf.newaxis], tf.int32), axis=-1)
            confidence = tf.exp(tf.gather(log_probs, best, batch_dims=1))
            return tf.stack([nll, kl, _float(best == teachers_best), _float(before < 5), confidence, _float(best == labels)], axis=-1)

        flat = [
            tf.reshape(hidden, [-1, shape.hidden_dim]),
            tf.reshape(labels, [-1]),
            tf.reshape(teacher_ids, [-1, top_k]),
            tf.reshape(teacher_log_probs, [-1, top_k]),
        ]
        found = _in_chunks(terms, flat, max(1, _LOGITS_AT_A_TIME // shape.vocabulary_size), 6)
        found = tf.reshape(found, [-1, predictions, 6])
        sums = tf.reduce_sum(found[:, :, :4] * mask[:, :, tf.newaxis], axis=1)
        return tf.concat([sums, _calibration_gaps(found[:, :, 4], found[:, :, 5], mask)], axis=1)

    inputs = [batch["tokens"][:, :-1], labels, batch["teacher_ids"], batch["teacher_log_probs"], mask]
    found = _in_chunks(windows, inputs, max(1, _TOKENS_AT_A_TIME // predictions), 4 + CALIBRATION_BINS)
    teacher_nll = -tf.reduce_sum(batch["teacher_label_log_prob"] * mask, axis=-1)
    text_bytes = tf.reduce_sum(tf.cast(tf.gather(byte_lengths, labels), tf.float32) * mask, axis=-1)
    confidence, right = tf.exp(batch["teacher_log_probs"][:, :, 0]), _float(batch["teacher_ids"][:, :, 0] == labels)
    sums = dict(zip(SUMS, (*tf.unstack(found[:, :4], axis=-1), teacher_nll, tf.reduce_sum(mask, axis=-1), text_bytes), strict=True))
    return sums | dict(zip(CALIBRATION, (found[:, 4:], _calibration_gaps(confidence, right, mask)), strict=True))


def _float(condition: tf.Tensor) -> tf.Tensor:
    return tf.cast(condition, tf.float32)


def _calibration_gaps(confidence: tf.Tensor, right: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """By bin of confidence, how often a model was right less how often it said it would be: float32 [B, N] each to [B, 15]."""
    # A confidence of zero would be in the bin before the first; what is not a number has no bin and stays what it is in the first.
    bins = tf.clip_by_value(tf.cast(tf.math.ceil(confidence * CALIBRATION_BINS), tf.int32) - 1, 0, CALIBRATION_BINS - 1)
    return tf.reduce_sum(tf.one_hot(bins, CALIBRATION_BINS) * ((right - confidence) * mask)[:, :, tf.newaxis], axis=1)


def log_likelihoods(shape: GemmaShape, weights: Mapping[str, tf.Tensor], texts: tf.RaggedTensor) -> dict[str, tf.Tensor]:
    """How probable texts are.

    Args:
      shape: the model's shape.
      weights: its weights (see `gemma.functional.weights_of`).
      texts: int32 [B, (length)], each beginning with `<bos>`.

    Returns:
      `log_likelihood` float32 [B], in nats: the sum of the log-probabilities of each token but the first, after those before it;
      `token_count` int32 [B], how many those are.
    """
    counts = tf.maximum(tf.cast(texts.row_lengths(), tf.int32) - 1, 0)
    # So that there is a prediction, of no weight, also where nothing follows <bos>, and where there are no texts.
    tokens = tf.pad(texts.to_tensor(), [[0, 0], [0, 2]])
    predictions = tf.shape(tokens)[1] - 1
    mask = tf.sequence_mask(counts, predictions, tf.float32)

    def text(tokens: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        hidden, _ = hidden_states(shape, weights, tokens[:, :-1])

        def terms(hidden: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            return tf.gather(tf.nn.log_softmax(logits(shape, weights, hidden)), labels, batch_dims=1)[:, tf.newaxis]

        flat = [tf.reshape(hidden, [-1, shape.hidden_dim]), tf.reshape(tokens[:, 1:], [-1])]
        found = _in_chunks(terms, flat, max(1, _LOGITS_AT_A_TIME // shape.vocabulary_size), 1)
        return tf.reduce_sum(tf.reshape(found, [-1, predictions]) * mask, axis=1, keepdims=True)

    found = _in_chunks(text, [tokens, mask], tf.maximum(1, _TOKENS_AT_A_TIME // predictions), 1)
    return {"log_likelihood": found[:, 0], "token_count": counts}


def _in_chunks(function: Callable[..., tf.Tensor], tensors: Sequence[tf.Tensor], size: int | tf.Tensor, width: int) -> tf.Tensor:
    """Applies `function` to at most `size` rows of `tensors` at a time; it makes float32 [rows, width], and so does this."""
    rows = tf.shape(tensors[0])[0]
    chunks = -(-rows // size)

    def step(index: tf.Tensor, results: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        return index + 1, results.write(index, function(*(tensor[index * size : (index + 1) * size] for tensor in tensors)))

    results = tf.TensorArray(tf.float32, size=chunks, infer_shape=False, element_shape=[None, width])
    # One at a time: parallel iterations would hold several chunks of logits at once.
    _, results = tf.while_loop(lambda index, _: index < chunks, step, (tf.constant(0), results), parallel_iterations=1)
    return results.concat()
