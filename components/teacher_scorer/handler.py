"""A Beam ModelHandler that scores token windows with a Gemma teacher, loaded once a worker."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from apache_beam.ml.inference.base import ModelHandler

from gemma_tf_distill.data.examples import parse_windows, scored_example
from gemma_tf_distill.gemma.teacher import load_teacher
from gemma_tf_distill.gemma.vocabulary import Vocabulary
from gemma_tf_distill.monitoring.progress import progress
from gemma_tf_distill.teacher.targets import TargetScorer

Window = tuple[str, bytes]


class _Scorers:
    """The teacher's compiled scorers, one a split: held-out targets are scored at temperature 1, as the metrics want them."""

    def __init__(self, by_split: Mapping[str, TargetScorer]):
        self.by_split = by_split
        self.windows_done = 0


class TeacherModelHandler(ModelHandler[Window, Window, _Scorers]):
    """Windows (split, serialized tf.Example with `tokens` and `source`) to (split, serialized scored tf.Example)."""

    def __init__(
        self, *, source: str, dtype: str, tokenizer: str, window: int, batch_size: int, top_k: int, temperature: float, total: int
    ):
        """Args:
        source: `teacher.source` of the config.
        dtype: the teacher's compute dtype.
        tokenizer: the folder of the student's vocabulary.
        window: T.
        batch_size: windows in a forward pass.
        top_k: words kept for each token.
        temperature: of the training split's targets.
        total: windows in all, for the progress line.
        """
        self._source = source
        self._dtype = dtype
        self._tokenizer = tokenizer
        self._window = window
        self._batch_size = batch_size
        self._top_k = top_k
        self._temperature = temperature
        self._total = total

    def load_model(self) -> _Scorers:
        """Loads the teacher over the student's vocabulary."""
        teacher = load_teacher(self._source, self._dtype, Vocabulary.load(self._tokenizer))
        plain = TargetScorer(teacher, top_k=self._top_k)
        softened = plain if self._temperature == 1 else TargetScorer(teacher, top_k=self._top_k, temperature=self._temperature)
        return _Scorers({"train": softened, "heldout": plain})

    def run_inference(self, batch: Sequence[Window], model: _Scorers, inference_args: dict[str, Any] | None = None) -> Iterable[Window]:
        """Scores a batch; windows of different splits may be mixed."""
        for split, scorer in model.by_split.items():
            serialized = [example for s, example in batch if s == split]
            for start in range(0, len(serialized), self._batch_size):
                yield from ((split, example) for example in self._score(scorer, serialized[start : start + self._batch_size]))
        model.windows_done += len(batch)
        progress("teacher targets", model.windows_done * self._window, self._total * self._window)

    def _score(self, scorer: TargetScorer, serialized: list[bytes]) -> Iterable[bytes]:
        windows = parse_windows(tf.constant(serialized), self._window)
        # A short batch is filled up with padding, so that XLA compiles one shape only.
        tokens = tf.pad(windows["tokens"], [[0, self._batch_size - len(serialized)], [0, 0]])
        ids, log_probs, label_log_prob = (np.asarray(value) for value in scorer(tokens))
        for i, source in enumerate(windows["source"].numpy()):
            example = scored_example(tokens[i].numpy(), source, ids[i], log_probs[i], label_log_prob[i])
            yield example.SerializeToString(deterministic=True)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Full batches wherever there are enough windows."""
        return {"min_batch_size": self._batch_size, "max_batch_size": self._batch_size}

    def get_metrics_namespace(self) -> str:
        """The prefix of RunInference's Beam metrics."""
        return "gemma_tf_distill_teacher"
