"""The student, as KerasHub computes it, on which nothing exported depends: what exported files are compared with."""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.apply import ModelQuantization, forward_as
from gemma_tf_distill.transfer.head import head_logits


class Noise(NamedTuple):
    """What inputs of products in int8 make of a student, over its windows.

    Attributes:
      behind: how far its choices are behind those in float, at the most, in nats.
      difference: |difference| of the log-probabilities of the tokens that follow, in the mean.
      disagreement: share of its choices that are others.
    """

    behind: float
    difference: float
    disagreement: float


def behind_best(expected: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """How far choices [N] are behind the first choices of log-probabilities [N, V], in nats."""
    return expected.max(-1) - expected[np.arange(len(choices)), choices]


class Reference:
    """A student's log-probabilities, with its weights on their lattices; a context manager that keeps them until it ends.

    Attributes:
      student: the model.
      windows: token ids of one length.
      begin: how many tokens of each are read before predictions are compared.
    """

    def __init__(self, student: Gemma, quantization: QuantizationConfig | None, windows: Sequence[Sequence[int]]):
        """Args:
        student: the model; to be compared with integers it lies on its lattices.
        quantization: with a scheme; none: the student is float32.
        windows: token ids of one length, at least 4.
        """
        self.student, self.windows, self.begin = student, windows, len(windows[0]) // 2
        # As LiteRT's kernels compute, whatever the student was trained with.
        simulated = None if quantization is None else dataclasses.replace(quantization, activations="dynamic_int8")
        self._simulated = None if simulated is None else ModelQuantization(student, simulated)
        self._folder = tempfile.TemporaryDirectory()
        self._kept: dict[bool, np.ndarray] = {}
        signature = tf.TensorSpec([1, None], tf.int32), tf.TensorSpec([], tf.int32)
        self._functions = {
            integer: tf.function(functools.partial(self._log_probs, integer=integer), input_signature=signature, autograph=False)
            for integer in (False, True)
        }

    def __enter__(self) -> "Reference":
        return self

    def __exit__(self, *error: object) -> None:
        self._kept.clear()
        self._folder.cleanup()

    def is_integer(self, format: str) -> bool:
        """Whether the runtime of a format multiplies integers, so that the student is compared with inputs of products in int8."""
        return self._simulated is not None and format in ("tflite", "litertlm")

    def log_probs(self, window: Sequence[int], begin: int, integer: bool) -> np.ndarray:
        """float32 [T - begin, V]: what the student says after each token of a window from `begin` on."""
        return self._functions[integer](tf.constant([window], tf.int32), tf.constant(begin)).numpy()

    def _log_probs(self, tokens: tf.Tensor, begin: tf.Tensor, integer: bool) -> tf.Tensor:
        backbone = self.student.backbone
        with forward_as(self._simulated if integer else None, training=False, settled=True) as head_input:
            states = head_input(backbone({"token_ids": tokens, "padding_mask": tf.ones_like(tokens)}))
            embedding = tf.convert_to_tensor(backbone.token_embedding.embeddings.value)
            return tf.nn.log_softmax(head_logits(states[0, begin:], embedding, backbone.final_logit_soft_cap))

    @functools.cached_property
    def noise(self) -> Noise:
        """Of a student with a scheme."""
        behind, different, differences = [], [], []
        for window, in_float, in_int8 in zip(self.windows, self.kept(False), self.kept(True), strict=True):
            choices, labels = in_int8.argmax(-1), np.array(window[self.begin + 1 :])
            behind.append(behind_best(in_float, choices))
            different.append(choices != in_float.argmax(-1))
            rows = np.arange(len(labels))
            differences.append(np.abs(in_float[rows, labels] - in_int8[rows, labels]))
        return Noise(float(np.max(behind)), float(np.mean(differences)), float(np.mean(different)))

    def kept(self, integer: bool) -> np.ndarray:
        """`log_probs` of all windows, float32 [windows, T - begin, V], in a file: with 262,144 words they are large."""
        if integer not in self._kept:
            shape = len(self.windows), len(self.windows[0]) - self.begin, self.student.tokenizer.vocabulary_size
            path = os.path.join(self._folder.name, f"{integer}.npy")
            kept = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            for index, window in enumerate(self.windows):
                kept[index] = self.log_probs(window, self.begin, integer)
            self._kept[integer] = kept
        return self._kept[integer]
