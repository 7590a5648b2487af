"""A smaller vocabulary that segments its corpus exactly as the teacher's does.

SentencePiece's BPE merges, again and again, the neighbouring pair whose union is the piece of the highest score. Take away pieces, and
the merges that made them no longer happen. On a text where none of the lost pieces was ever made, every other merge happens as
before, in the same order; so it is enough to keep, with every piece that the corpus uses, what its own merges make on the way. Those
are found by running BPE on the piece's text alone: merges across its ends never happened, or the piece would not have come out.
User-defined pieces (runs of white space, chat and HTML tags) are matched before BPE, the longest first, and have no merges.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from sentencepiece import sentencepiece_model_pb2

from gemma_tf_distill.errors import ConfigError, WeightsError
from gemma_tf_distill.gemma.storage import local_folder, publish_folder
from gemma_tf_distill.gemma.tokenizer import Tokenizer

# The last one is the space: as bytes it would come back as ▁.
SPECIAL_PIECES = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "▁")

_PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """Some of the teacher's words, with the tokenizer that they make.

    Attributes:
      kept_ids: int32 [V], rising: the teacher's id of every id of the student.
      proto: the student's serialized SentencePiece model.
    """

    kept_ids: np.ndarray
    proto: bytes

    def __post_init__(self) -> None:
        if self.kept_ids.ndim != 1 or self.tokenizer.vocabulary_size != len(self.kept_ids) or (np.diff(self.kept_ids) <= 0).any():
            raise WeightsError(f"a vocabulary of {self.tokenizer.vocabulary_size} pieces needs as many rising teacher ids")

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The student's tokenizer."""
        return Tokenizer(self.proto)

    @functools.cached_property
    def is_byte(self) -> np.ndarray:
        """bool [V], which words are byte pieces."""
        mask = np.zeros(len(self.kept_ids), bool)
        mask[self.tokenizer.byte_ids()] = True
        return mask

    def check_made_from(self, tokenizer: Tokenizer) -> None:
        """Raises WeightsError unless every word is the teacher's own word at its id."""
        if self.proto == tokenizer.proto:
            return
        if int(self.kept_ids[-1]) < tokenizer.vocabulary_size:
            words = zip(range(len(self.kept_ids)), self.kept_ids.tolist(), strict=True)
            if all(self.tokenizer.piece(mine) == tokenizer.piece(theirs) for mine, theirs in words):
                return
        raise WeightsError("the vocabulary was made from another teacher's: its words are not the teacher's at their ids")

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `tokenizer.model`, `kept_ids.npy` and `vocabulary.json`; the folder appears whole or not at all."""
        with publish_folder(folder) as local:
            (local / "tokenizer.model").write_bytes(self.proto)
            np.save(local / "kept_ids.npy", self.kept_ids)
            description = {"vocabulary_size": len(self.kept_ids), "teacher_ids_below": int(self.kept_ids[-1]) + 1}
            (local / "vocabulary.json").write_text(json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Vocabulary":
        """Reads what `save` wrote; raises WeightsError where it is missing or damaged."""
        with local_folder(folder) as local:
            try:
                return cls(np.load(local / "kept_ids.npy"), (local / "tokenizer.model").read_bytes())
            except (OSError, ValueError) as error:
                raise WeightsError(f"{folder} holds no vocabulary: kept_ids.npy or tokenizer.model is missing or damaged") from error


def full_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The teacher's own vocabulary, all of it."""
    return Vocabulary(np.arange(tokenizer.vocabulary_size, dtype=np.int32), tokenizer.proto)


def trim_vocabulary(tokenizer: Tokenizer, counts: Mapping[int, int], size: int | None = None) -> Vocabulary:
    """The words that a corpus uses, the special and byte pieces, and what the merges of every kept word pass through.

    On the text that was counted, without a `size`, the new tokenizer segments exactly as `tokenizer` does. Any other text is
    encoded with what there is, bytes at the last, and decodes to itself as far as it does with `tokenizer` (both read U+2581, `▁`,
    as a space).

    Args:
      tokenizer: the teacher's.
      counts: teacher id to its number in the corpus.
      size: keep at most as many words in all; the most frequent first, each with its ancestors or not at all.

    Raises:
      ConfigError: if `size` is below what the special and byte pieces need.
    """
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.proto)
    texts = [piece.piece for piece in model.pieces]
    kinds = [piece.type for piece in model.pieces]
    merges = _Merges(model.pieces)

    kept = {index for index, kind in enumerate(kinds) if kind in (_PIECE.BYTE, _PIECE.UNKNOWN)}
    kept.update(index for index in map(tokenizer.id_of, SPECIAL_PIECES) if index is not None)
    # An unused piece is made by merges and split again, which keeps its parts from others.
    for index in (index for index, kind in enumerate(kinds) if kind == _PIECE.UNUSED):
        ancestors = merges.ancestors(texts[index])
        if index in ancestors:
            kept |= ancestors
    if size is not None and size < len(kept):
        raise ConfigError(f"student.vocabulary must be at least {len(kept)}, which special and byte pieces take, not {size}")

    for index in sorted((index for index, count in counts.items() if count > 0), key=lambda index: (-counts[index], index)):
        if index in kept:
            continue
        family = {index} if kinds[index] != _PIECE.NORMAL else {index} | merges.ancestors(texts[index]) - kept
        if size is None or len(kept) + len(family) <= size:
            kept |= family

    kept_ids = np.array(sorted(kept), np.int32)
    trimmed = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.proto)
    del trimmed.pieces[:]
    trimmed.pieces.extend(model.pieces[index] for index in kept_ids.tolist())
    trimmed.trainer_spec.vocab_size = len(kept_ids)
    return Vocabulary(kept_ids, trimmed.SerializeToString())


class _Merges:
    """SentencePiece's BPE on short texts, with a memory of what it made on the way."""

    def __init__(self, pieces: Sequence[sentencepiece_model_pb2.ModelProto.SentencePiece]):
        mergeable = (_PIECE.NORMAL, _PIECE.USER_DEFINED, _PIECE.UNUSED)
        self._ids = {piece.piece: index for index, piece in enumerate(pieces) if piece.type in mergeable}
        self._scores = [piece.score for piece in pieces]

    def ancestors(self, text: str) -> set[int]:
        """Ids of all that BPE makes of a text: its characters (where they are pieces) and the result of every merge."""
        symbols = list(text)
        made = {self._ids[symbol] for symbol in symbols if symbol in self._ids}
        while pairs := list(self._pairs(symbols)):
            # The highest score first, of equal ones the leftmost.
            _, at, merged = max(pairs, key=lambda pair: (pair[0], -pair[1]))
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            made.add(merged)
        return made

    def _pairs(self, symbols: Sequence[str]) -> Iterator[tuple[float, int, int]]:
        for at in range(len(symbols) - 1):
            merged = self._ids.get(symbols[at] + symbols[at + 1])
            if merged is not None:
                yield self._scores[merged], at, merged
