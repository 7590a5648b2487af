"""A Beam ModelHandler that scores token windows with a Gemma teacher, loaded once a worker."""

import functools
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from apache_beam.ml.inference.base import ModelHandler

from gemma_tf_distill.config import AttentionConfig
from gemma_tf_distill.data.examples import parse_windows, scored_example, target_example
from gemma_tf_distill.errors import TargetsError
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.teacher import load_teacher
from gemma_tf_distill.gemma.vocabulary import Vocabulary
from gemma_tf_distill.monitoring.progress import progress
from gemma_tf_distill.teacher.codec import encode_draws, encode_top_k
from gemma_tf_distill.teacher.target_store import TargetAddress
from gemma_tf_distill.teacher.targets import SampledTargetScorer, Targets, TargetScorer

Window = tuple[str, bytes]


class Labels(NamedTuple):
    """What a window is of: its source, and the names and values of `corpus.features`, in UTF-8."""

    source: bytes
    features: tuple[tuple[str, bytes], ...]


# Tokens int32 [B, T], of which the first windows count, and those windows' labels, to tf.Examples.
Scorer = Callable[[tf.Tensor, Sequence[Labels]], Iterable[tf.train.Example]]


class _Scorers:
    """The teacher's compiled scorers, one a split; the split's windows with their targets come out serialized."""

    def __init__(self, train: Scorer, heldout: Scorer):
        self.by_split = {"train": train, "heldout": heldout}
        self.windows_done = 0


class TeacherModelHandler(ModelHandler[Window, Window, _Scorers]):
    """Windows (split, serialized tf.Example with `tokens` and `source`) to (split, serialized scored tf.Example)."""

    def __init__(
        self,
        *,
        source: str,
        dtype: str,
        tokenizer: str,
        window: int,
        features: Sequence[str],
        batch_size: int,
        top_k: int,
        address: TargetAddress,
        total: int,
        attention: AttentionConfig,
    ):
        """Args:
        source: `teacher.source` of the config.
        dtype: the teacher's compute dtype.
        tokenizer: the folder of the student's vocabulary.
        window: T.
        features: `corpus.features`, which held-out windows keep.
        batch_size: windows in a forward pass.
        top_k: words kept for each held-out token.
        address: of the training split's targets.
        total: windows in all, for the progress line.
        attention: how the teacher computes its.
        """
        self._source = source
        self._dtype = dtype
        self._tokenizer = tokenizer
        self._window = window
        self._features = tuple(features)
        self._batch_size = batch_size
        self._top_k = top_k
        self._address = address
        self._total = total
        self._attention = EfficientAttention(attention)

    def load_model(self) -> _Scorers:
        """Loads the teacher over the student's vocabulary."""
        teacher = load_teacher(self._source, self._dtype, Vocabulary.load(self._tokenizer))
        # Held-out targets are scored at temperature 1, as the metrics want them.
        best = TargetScorer(teacher, top_k=self._top_k, attention=self._attention)
        # The first batch is only there when the scorer is compiled.
        progress("teacher targets", 0, self._total * self._window)
        return _Scorers(train=self._training_scorer(teacher, best), heldout=functools.partial(_heldout_examples, best))

    def _training_scorer(self, teacher: Gemma, best: TargetScorer) -> Scorer:
        address = self._address
        if address.kind == "dense":
            return _unscored_examples
        if address.kind == "sampled":
            drawer = SampledTargetScorer(teacher, draws=address.words, temperature=address.temperature, attention=self._attention)
            return functools.partial(_drawn_examples, drawer)
        scorer = best
        if address.temperature != 1:
            scorer = TargetScorer(teacher, top_k=address.words, temperature=address.temperature, attention=self._attention)
        return functools.partial(_top_k_examples, scorer, math.log(max(address.least_probability, 1e-30)))

    def run_inference(self, batch: Sequence[Window], model: _Scorers, inference_args: dict[str, Any] | None = None) -> Iterable[Window]:
        """Scores a batch; windows of different splits may be mixed."""
        for split, scorer in model.by_split.items():
            serialized = [example for s, example in batch if s == split]
            for start in range(0, len(serialized), self._batch_size):
                yield from ((split, example) for example in self._score(scorer, serialized[start : start + self._batch_size]))
        model.windows_done += len(batch)
        progress("teacher targets", model.windows_done * self._window, self._total * self._window)

    def _score(self, scorer: Scorer, serialized: list[bytes]) -> Iterable[bytes]:
        windows = parse_windows(tf.constant(serialized), self._window, self._features)
        values = [windows[name].numpy() for name in self._features]
        labels = [
            Labels(source, tuple((name, value[i]) for name, value in zip(self._features, values, strict=True)))
            for i, source in enumerate(windows["source"].numpy())
        ]
        # A short batch is filled up with padding, so that XLA compiles one shape only.
        tokens = tf.pad(windows["tokens"], [[0, self._batch_size - len(serialized)], [0, 0]])
        for example in scorer(tokens, labels):
            yield example.SerializeToString(deterministic=True)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Full batches wherever there are enough windows."""
        return {"min_batch_size": self._batch_size, "max_batch_size": self._batch_size}

    def get_metrics_namespace(self) -> str:
        """The prefix of RunInference's Beam metrics."""
        return "gemma_tf_distill_teacher"


def _heldout_examples(scorer: TargetScorer, tokens: tf.Tensor, labels: Sequence[Labels]) -> Iterable[tf.train.Example]:
    ids, log_probs, label_log_prob = _numbers(scorer(tokens))
    for i, (source, features) in enumerate(labels):
        yield scored_example(tokens[i].numpy(), source, ids[i], log_probs[i], label_log_prob[i], features)


def _top_k_examples(scorer: TargetScorer, least_log_prob: float, tokens: tf.Tensor, labels: Sequence[Labels]) -> Iterable[tf.train.Example]:
    ids, log_probs, _ = _numbers(scorer(tokens))
    for i, (source, _) in enumerate(labels):
        yield target_example(tokens[i].numpy(), source, encode_top_k(ids[i], log_probs[i], least_log_prob))


def _drawn_examples(scorer: SampledTargetScorer, tokens: tf.Tensor, labels: Sequence[Labels]) -> Iterable[tf.train.Example]:
    windows = tokens.numpy()
    # What is drawn for a window follows from its tokens, whatever batch or worker it comes to, and whatever the seed of training.
    generators = [np.random.default_rng(zlib.crc32(window.tobytes())) for window in windows]
    uniforms = np.stack([generator.random(windows.shape[1] - 1, np.float32) for generator in generators])
    ids, _, _ = _numbers(scorer(tokens, tf.constant(uniforms)))
    for i, (source, _) in enumerate(labels):
        yield target_example(windows[i], source, encode_draws(ids[i]))


def _unscored_examples(tokens: tf.Tensor, labels: Sequence[Labels]) -> Iterable[tf.train.Example]:
    for i, (source, _) in enumerate(labels):
        yield target_example(tokens[i].numpy(), source, b"")


def _numbers(targets: Targets) -> Targets:
    """The targets as arrays; raises TargetsError where the teacher's probabilities are not numbers."""
    arrays = Targets(*(np.asarray(value) for value in targets))
    if not np.all(np.isfinite(arrays.teacher_label_log_prob)):
        raise TargetsError(
            "the teacher's probabilities are not numbers (NaN or infinite) for a window of the corpus: check the teacher's weights, and "
            "try teacher.dtype float32"
        )
    return arrays
