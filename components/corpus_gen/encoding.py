"""Steps of CorpusGen that turn text into token ids and make the student's vocabulary."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np

from components.corpus_gen.selection import Item
from gemma_tf_distill.data.splitting import TRAIN
from gemma_tf_distill.gemma.teacher import load_tokenizer
from gemma_tf_distill.gemma.vocabulary import Vocabulary, full_vocabulary, trim_vocabulary
from gemma_tf_distill.monitoring.progress import Ticker

# Once a worker process, however many steps need it.
_teacher_tokenizer = functools.lru_cache(maxsize=1)(load_tokenizer)


def _raw(ids: Sequence[int] | np.ndarray) -> bytes:
    return np.asarray(ids, np.int32).tobytes()


class Encode(beam.DoFn):
    """Batches of Items without ids → Items with the teacher's ids."""

    def __init__(self, teacher_source: str):
        self._teacher_source = teacher_source

    def setup(self) -> None:
        """Called by Beam once a worker."""
        self._tokenizer = _teacher_tokenizer(self._teacher_source)
        self._ticker = Ticker("encoding the corpus", unit="tokens")

    def process(self, items: Sequence[Item]) -> Iterator[Item]:
        """Encodes one batch."""
        for item, ids in zip(items, self._tokenizer.encode_batch([item.text for item in items]), strict=True):
            self._ticker.add(len(ids))
            yield item._replace(ids=_raw(ids))


class WordCounts(beam.CombineFn):
    """Items → int64 [largest id + 1], how often each of the teacher's words is used."""

    def create_accumulator(self) -> np.ndarray:
        """No words yet."""
        return np.zeros(0, np.int64)

    def add_input(self, counts: np.ndarray, item: Item) -> np.ndarray:
        """Counts the words of one document."""
        words, numbers = np.unique(np.frombuffer(item.ids, np.int32), return_counts=True)
        if len(words) and words[-1] >= len(counts):
            counts = np.append(counts, np.zeros(words[-1] + 1 - len(counts), np.int64))
        counts[words] += numbers
        return counts

    def merge_accumulators(self, several: Iterable[np.ndarray]) -> np.ndarray:
        """Adds the workers' counts up."""
        merged = self.create_accumulator()
        for counts in several:
            small, large = sorted((merged, counts), key=len)
            merged = large.copy()
            merged[: len(small)] += small
        return merged

    def extract_output(self, counts: np.ndarray) -> np.ndarray:
        """The counts themselves."""
        return counts


def make_vocabulary(counts: np.ndarray, teacher_source: str, setting: str | int) -> Vocabulary:
    """The student's vocabulary; `setting` is `StudentConfig.vocabulary`.

    Raises:
      ConfigError: if `setting` is fewer words than a vocabulary must have.
    """
    tokenizer = _teacher_tokenizer(teacher_source)
    if setting == "full":
        return full_vocabulary(tokenizer)
    size = setting if isinstance(setting, int) else None
    return trim_vocabulary(tokenizer, {int(word): int(counts[word]) for word in np.flatnonzero(counts)}, size)


def to_student_ids(items: Sequence[Item], vocabulary: Vocabulary) -> Iterator[Item]:
    """Batches of Items with the teacher's ids → Items with the student's, without their text.

    A training document whose words are all kept is mapped word by word: what its merges pass through is kept too, so that the trimmed
    tokenizer would segment it the same (see `gemma.vocabulary`). All other documents are encoded anew.
    """
    anew = []
    for item in items:
        teacher_ids = np.frombuffer(item.ids, np.int32)
        student_ids = np.searchsorted(vocabulary.kept_ids, teacher_ids).clip(max=len(vocabulary.kept_ids) - 1)
        if item.split == TRAIN and np.array_equal(vocabulary.kept_ids[student_ids], teacher_ids):
            yield item._replace(text="", ids=_raw(student_ids), characters=len(item.text))
        else:
            anew.append(item)
    for item, ids in zip(anew, vocabulary.tokenizer.encode_batch([item.text for item in anew]), strict=True):
        yield item._replace(text="", ids=_raw(ids), characters=len(item.text))
