"""Compares two models of different words by what they have in common: the bits that each needs for a byte of the same text."""

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from components.quality_gate.bootstrap import interval, resampled_sums
from components.quality_gate.metrics import rise
from gemma_tf_distill.data.batches import records
from gemma_tf_distill.data.packing import BOS_ID, EOS_ID, PAD_ID
from gemma_tf_distill.export.names import SCORE
from gemma_tf_distill.export.saved_model_runtime import load_saved_model
from gemma_tf_distill.gemma.tokenizer import Tokenizer

_TEXTS_AT_A_TIME = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Bits a byte of two models on the same texts.

    Attributes:
      candidate: of the candidate.
      baseline: of the baseline.
      rise: how much the candidate's are above the baseline's, as a fraction of them.
      low: the lower end of its 95 % confidence interval, by bootstrap over windows.
      high: the upper end.
      texts: how many were compared.
      left_out: how many were not, since they are longer than what one of the models reads at once.
    """

    candidate: float
    baseline: float
    rise: float
    low: float
    high: float
    texts: int
    left_out: int

    @property
    def words(self) -> str:
        """What was compared, for a person."""
        left_out = f"; {self.left_out} texts are longer than a context and were left out" if self.left_out else ""
        return (
            f"the baseline has another vocabulary, so that both were compared in bits per byte of {self.texts} texts "
            f"({self.candidate:.4f} beside {self.baseline:.4f}){left_out}"
        )


def compare_in_bits_per_byte(candidate: str, baseline: str, tokenizer: Tokenizer, files: Sequence[str]) -> Comparison:
    """Scores the documents in held-out windows with the signature `score` of both models.

    Args:
      candidate: the folder of its SavedModel; likewise `baseline`.
      tokenizer: of the windows.
      files: the held-out windows, gzipped TFRecords.

    Returns:
      The comparison; its figures are NaN where there is no text, or a model's likelihood is no number.

    Raises:
      WeightsError: if a model is damaged.
    """
    texts = [(number, text) for number, window in enumerate(_windows(files)) for text in _documents(tokenizer, window)]
    scores = [_log_likelihoods(folder, [text for _, text in texts]) for folder in (candidate, baseline)]
    whole = np.logical_and(*(whole for _, whole in scores))
    rows = np.zeros([texts[-1][0] + 1 if texts else 0, 3])
    for place, (number, text) in enumerate(texts):
        if whole[place]:
            rows[number] += [-scores[0][0][place], -scores[1][0][place], len(text.encode())]
    rows = rows[rows[:, 2] > 0]
    bits = [float(nats / rows[:, 2].sum() / math.log(2)) if len(rows) else math.nan for nats in rows[:, :2].sum(axis=0)]
    draws = resampled_sums(rows) if len(rows) > 1 else np.full([1, 3], math.nan)
    low, high = interval(rise(draws[:, 0], draws[:, 1]))
    return Comparison(
        candidate=bits[0],
        baseline=bits[1],
        rise=float(rise(*bits)),
        low=low,
        high=high,
        texts=int(whole.sum()),
        left_out=int((~whole).sum()),
    )


def _windows(files: Sequence[str]) -> Iterator[np.ndarray]:
    for record in records(files).as_numpy_iterator():
        yield np.array(tf.train.Example.FromString(record).features.feature["tokens"].int64_list.value)


def _documents(tokenizer: Tokenizer, window: np.ndarray) -> Iterator[str]:
    for part in np.split(window, np.flatnonzero(window == BOS_ID)):
        text = tokenizer.decode(part[~np.isin(part, (PAD_ID, BOS_ID, EOS_ID))])
        if text:
            yield text


def _log_likelihoods(folder: str, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Of each text its log-likelihood in nats, float64 [n], and whether it was read to its end, bool [n]."""
    model = load_saved_model(folder)
    longest = int(model.context_length) - 1
    likelihoods, counts = [np.zeros(0)], [np.zeros(0)]
    for start in range(0, len(texts), _TEXTS_AT_A_TIME):
        found = model.signatures[SCORE](text=tf.constant(texts[start : start + _TEXTS_AT_A_TIME]))
        likelihoods.append(found["log_likelihood"].numpy().astype(np.float64))
        counts.append(found["token_count"].numpy())
    return np.concatenate(likelihoods), np.concatenate(counts) < longest


def vocabulary_of(model_uri: str) -> bytes | None:
    """The tokenizer of an exported model; none where its files are gone, or were moved with the folder of the run."""
    path = os.path.join(model_uri, "files", "tokenizer.model")
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()
