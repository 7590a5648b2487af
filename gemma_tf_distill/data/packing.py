"""Packing documents into windows of one length."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# The same in Gemma's own vocabulary and in every trimmed one, which keeps the order of ids.
PAD_ID, EOS_ID, BOS_ID = 0, 1, 2


def pack(
    documents: Iterable[Sequence[int] | np.ndarray], window: int, *, bos: int = BOS_ID, eos: int = EOS_ID, pad: int = PAD_ID
) -> Iterator[np.ndarray]:
    """Joins documents to `<bos> document <eos> <bos> document <eos> …` and cuts that into windows.

    Every window begins with `<bos>`: a document that goes on in the next window gets another one there, since Gemma has never seen a
    text without it (its loss nearly doubles). Only the last window is padded.

    Args:
      documents: token ids of each document, without specials.
      window: tokens in a window, at least 2.
      bos: id of `<bos>`; likewise `eos` and `pad`.

    Yields:
      Windows, int64 [window]. None for no documents.
    """
    if window < 2:
        raise ValueError(f"window must be at least 2 tokens, not {window}")
    current = np.full(window, pad, np.int64)
    filled = 0
    for document in documents:
        rest = np.append(np.asarray(document, np.int64), eos)
        begins = True
        while len(rest):
            if filled == window:
                yield current
                current, filled = np.full(window, pad, np.int64), 0
            if filled == 0 or begins:
                current[filled] = bos
                filled += 1
                begins = False
            taken = rest[: window - filled]
            current[filled : filled + len(taken)] = taken
            filled += len(taken)
            rest = rest[len(taken) :]
    if filled:
        yield current
