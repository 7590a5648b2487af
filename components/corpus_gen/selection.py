"""Steps of CorpusGen that read documents and choose those to keep."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from gemma_tf_distill.config import CorpusConfig
from gemma_tf_distill.data.check import raise_if_empty
from gemma_tf_distill.data.documents import Shard, read_shard
from gemma_tf_distill.data.splitting import HELDOUT, TRAIN, Sample, document_hash, long_enough, sampling_position, split_of
from gemma_tf_distill.errors import CorpusError
from gemma_tf_distill.monitoring.progress import Ticker

# Values that a feature may have: of more, such as those of an id, a window would hardly be more than a document.
MOST_VALUES = 100
# More characters a token than any prose has (English has 4), so that the candidates hold enough tokens for a cap.
_CHARACTERS_PER_TOKEN = 10


class Item(NamedTuple):
    """A document on its way through CorpusGen.

    Attributes:
      digest: `document_hash` of the text.
      split: `train` or `heldout`.
      source: see `Document.source`.
      text: the text.
      ids: raw int32 token ids without specials, the teacher's and then the student's; none before encoding.
      characters: of the text, from when it is left out.
      features: see `Document.features`.
    """

    digest: bytes
    split: str
    source: str
    text: str
    ids: bytes = b""
    characters: int = 0
    features: tuple[str, ...] = ()


class ReadShard(beam.DoFn):
    """Shard → (digest, (source, features, text)) of the documents that are long enough, and (name, number) counts beside them."""

    def __init__(self, min_characters: int):
        self._min_characters = min_characters

    def setup(self) -> None:
        """Called by Beam once a worker."""
        self._ticker = Ticker("reading the corpus", unit="documents")

    def process(self, shard: Shard) -> Iterator[Any]:
        """Reads one shard as a stream."""
        counts: Counter[str] = Counter()
        for document in read_shard(shard):
            counts["read"] += 1
            self._ticker.add(1)
            if long_enough(document.text, self._min_characters):
                yield document_hash(document.text), (document.source, document.features, document.text)
            else:
                counts["short"] += 1
        for count in counts.items():
            yield beam.pvalue.TaggedOutput("counts", count)


def split_document(document: tuple[bytes, tuple[str, tuple[str, ...], str]], heldout_fraction: float) -> Item:
    """(digest, (source, features, text)) → Item."""
    digest, (source, features, text) = document
    return Item(digest, split_of(digest, heldout_fraction), source, text, features=features)


class SampleFn(beam.CombineFn):
    """(position, below, weight) → Sample; none of nothing."""

    def create_accumulator(self) -> Sample | None:
        """An empty sample takes its range from the first document."""
        return None

    def add_input(self, sample: Sample | None, weighed: tuple[int, int, int]) -> Sample:
        """Counts one document."""
        position, below, weight = weighed
        sample = sample or Sample(below)
        sample.add(position, weight)
        return sample

    def merge_accumulators(self, samples: Iterable[Sample | None]) -> Sample | None:
        """Adds the workers' samples up."""
        merged = None
        for sample in samples:
            if merged is None:
                merged = sample
            elif sample is not None:
                merged.merge(sample)
        return merged

    def extract_output(self, sample: Sample | None) -> Sample | None:
        """The sample itself."""
        return sample


def weigh(item: Item, below: Mapping[str, int], weight: int) -> tuple[str, tuple[int, int, int]]:
    """What SampleFn takes, by split."""
    return item.split, (sampling_position(item.digest), below[item.split], weight)


def _cuts(samples: Mapping[str, Sample], corpus: CorpusConfig, characters_per_token: int) -> dict[str, int]:
    caps = {TRAIN: corpus.max_train_tokens, HELDOUT: corpus.max_heldout_tokens}
    return {split: samples[split].cut(None if cap is None else cap * characters_per_token) for split, cap in caps.items()}


def named_features(item: Item, names: Sequence[str]) -> list[tuple[str, str]]:
    """(name, value) of a document's features."""
    return list(zip(names, item.features, strict=True))


def candidates_below(
    _: None, corpus: CorpusConfig, characters: Mapping[str, Sample], counts: Mapping[str, int], values: Mapping[str, int]
) -> dict[str, int]:
    """By split: the sampling position below which documents surely hold the tokens of the cap. Only those need encoding.

    Args:
      corpus: what was read.
      characters: documents by position, weighed by their characters.
      counts: numbers of documents.
      values: by feature, how many values documents have; a missing one does not count.

    Raises:
      CorpusError: if a split has no document, or a feature no value or too many.
    """
    raise_if_empty(counts, corpus)
    _raise_unless_few(values, corpus)
    return _cuts(characters, corpus, _CHARACTERS_PER_TOKEN)


def _raise_unless_few(values: Mapping[str, int], corpus: CorpusConfig) -> None:
    for name in corpus.features:
        number = values.get(name, 0)
        if not number:
            raise CorpusError(f"no document of corpus.source {', '.join(corpus.sources)!r} has {name!r}, which corpus.features asks for")
        if number > MOST_VALUES:
            raise CorpusError(
                f"{name!r} of corpus.features has {number:,} values, and {MOST_VALUES} at the most are possible, since documents of each "
                "value are packed into windows of their own: name a feature of fewer values, or take it out"
            )


def kept_below(_: None, corpus: CorpusConfig, tokens: Mapping[str, Sample]) -> dict[str, int]:
    """By split: the sampling position below which documents hold the tokens of the cap."""
    return _cuts(tokens, corpus, 1)


def is_below(item: Item, below: Mapping[str, int]) -> bool:
    """Whether a document is among those that a cap keeps."""
    return sampling_position(item.digest) < below[item.split]
