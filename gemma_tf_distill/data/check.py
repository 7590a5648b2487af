"""A look at a corpus before anything is created, so that most mistakes cost a second and not a run."""

import contextlib
import os
from collections import Counter
from collections.abc import Mapping

from gemma_tf_distill.config import CorpusConfig
from gemma_tf_distill.data import files
from gemma_tf_distill.data.documents import Shard, expand_sources, read_shard
from gemma_tf_distill.data.splitting import SPLITS, document_hash, long_enough, split_of
from gemma_tf_distill.errors import CorpusError

# Of more files than these only so many are opened, evenly spread over their names.
_FILES_OPENED = 100


def check_corpus(config: CorpusConfig) -> None:
    """Checks that the sources exist, that files are readable and text at their beginning, and that both splits get a document.

    It stops reading at the first document of each split, so a mistake further on in a file is found by the run only.

    Raises:
      CorpusError: says what is wrong with which file, or which filter took how many documents.
    """
    shards = expand_sources(config)
    file_shards = [shard for shard in shards if shard.kind != "docstrings"]
    for shard in file_shards:
        _check_access(shard.paths[0])
    for shard in file_shards[:: max(1, -(-len(file_shards) // _FILES_OPENED))]:
        with contextlib.closing(read_shard(shard)) as documents:
            next(documents, None)
    counts = _count_until_both_splits(shards, config)
    raise_if_empty(counts, config)


def _check_access(path: str) -> None:
    if not files.is_remote(path) and not os.access(path, os.R_OK):
        raise CorpusError(f"{path} cannot be read: Permission denied")


def _count_until_both_splits(shards: list[Shard], config: CorpusConfig) -> Counter[str]:
    counts: Counter[str] = Counter()
    for shard in shards:
        with contextlib.closing(read_shard(shard)) as documents:
            for document in documents:
                counts["read"] += 1
                if not long_enough(document.text, config.min_characters):
                    counts["short"] += 1
                    continue
                counts[split_of(document_hash(document.text), config.heldout_fraction)] += 1
                if all(counts[split] for split in SPLITS):
                    return counts
    return counts


def raise_if_empty(counts: Mapping[str, int], config: CorpusConfig) -> None:
    """Raises where a split has no document.

    Args:
      counts: number of documents `read`, of `short` ones among them, and of distinct ones left in `train` and `heldout`.

    Raises:
      CorpusError: says how many documents were read and how many fell to which filter.
    """
    read, short, train, heldout = (counts.get(name, 0) for name in ("read", "short", *SPLITS))
    name = ", ".join(config.sources)
    if not read:
        raise CorpusError(f"the corpus is empty: corpus.source {name!r} holds no documents")
    if not train + heldout:
        raise CorpusError(
            f"no documents left of corpus.source {name!r}: {read} read, {short} of them shorter than corpus.min_characters "
            f"({config.min_characters}): lower it, or add longer documents"
        )
    for split, size, advice in (("held-out", heldout, "raise"), ("training", train, "lower")):
        if not size:
            raise CorpusError(
                f"no {split} documents in corpus.source {name!r}: {read} read, {short} shorter than corpus.min_characters "
                f"({config.min_characters}), {train + heldout} left, all on one side of the split: {advice} corpus.heldout_fraction "
                f"({config.heldout_fraction:g}), add documents, or cut text files by corpus.document_separator"
            )
