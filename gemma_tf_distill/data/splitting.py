"""Which documents are kept and what for, decided by each document's own hash: the same for any order, number of shards or workers.

Three independent parts of the sha256 of a document's text decide: on which side of the split it is, whether a cap on tokens keeps it,
and, where a source is large, with which others it is packed. Equal texts share all three, so that no text is both learnt and held out.
"""

import hashlib

import numpy as np

TRAIN, HELDOUT = "train", "heldout"
SPLITS = (TRAIN, HELDOUT)

# Sampling positions are whole numbers below this, and so are kept documents where there is no cap. They fit 64 bits with a sign.
EVERYTHING = 1 << 62
_BUCKETS = 1 << 16


def document_hash(text: str) -> bytes:
    """The identity of a document: sha256 of its text in UTF-8."""
    return hashlib.sha256(text.encode()).digest()


def long_enough(text: str, min_characters: int) -> bool:
    """Whether a document has `min_characters`, white space around it not counted."""
    return len(text.strip()) >= min_characters


def _part(digest: bytes, number: int) -> int:
    """One of four independent numbers in [0, 2**62)."""
    return int.from_bytes(digest[8 * number : 8 * number + 8], "big") >> 2


def split_of(digest: bytes, heldout_fraction: float) -> str:
    """The split of a document: `heldout` for about `heldout_fraction` of them, `train` for the others."""
    return HELDOUT if _part(digest, 0) < int(heldout_fraction * EVERYTHING) else TRAIN


def sampling_position(digest: bytes) -> int:
    """Where a document stands in the order in which a cap takes documents, in [0, 2**62)."""
    return _part(digest, 1)


def packing_bucket(digest: bytes, buckets: int) -> int:
    """Which of `buckets` groups of its source a document is packed with."""
    return _part(digest, 2) % buckets


class Sample:
    """A sum of weights over sampling positions, of which a cap takes the first part.

    Documents are counted by the position of their hash, not listed: half a megabyte whatever the corpus, and samples of several
    workers add up. The answer is exact up to the documents that share one of 65,536 buckets.

    Attributes:
      below: positions counted, from 0 to `below` (excluded).
      weights: int64 [65536], the weight in each bucket of positions.
    """

    def __init__(self, below: int = EVERYTHING):
        self.below = below
        self.weights = np.zeros(_BUCKETS, np.int64)

    def add(self, position: int, weight: int) -> None:
        """Counts one document."""
        self.weights[position * _BUCKETS // self.below] += weight

    def merge(self, other: "Sample") -> None:
        """Counts what another sample of the same range has counted."""
        self.weights += other.weights

    @property
    def total(self) -> int:
        """The weight of all documents counted."""
        return int(self.weights.sum())

    def cut(self, limit: int | None) -> int:
        """The position below which documents weigh `limit` or hardly more; `below` if all weigh less, or for a limit of none."""
        if limit is None or self.total <= limit:
            return self.below
        buckets = int(np.searchsorted(np.cumsum(self.weights), limit)) + 1
        # Rounded up: a whole position is below it exactly if its bucket is one of those taken.
        return -(-buckets * self.below // _BUCKETS)
