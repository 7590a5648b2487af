"""Teacher targets as few bytes: distinct words of each token, and how probable or how often drawn each is.

A token needs as many words as the teacher hesitates between, so their number differs from token to token. Ids rise within a token and
are stored as differences; a log-probability x (at most 0) as the nearest whole number to 80 sqrt(-x), which is finest where the
probability is large. All first bytes of a window's numbers are stored together, then all second bytes, and so on, for DEFLATE (RFC
1951) to find what is alike.
"""

import zlib

import numpy as np

from gemma_tf_distill.errors import TargetsError
from gemma_tf_distill.transfer.supports import NO_WORD

# A log-probability is off by at most sqrt(-x) / 80: 0.0125 at -1, 0.038 at -9. As a KL that is below 0.0005 nats. Where rounding takes
# the sum of a token's probabilities above 1, reading takes all of them back by as much, below 3 % (on docstrings at most 0.7 %).
_STEPS = 80.0
# 255 steps: words below it (probability 3.9e-5) are left to the tail.
LEAST_LOG_PROB = -((255 / _STEPS) ** 2)


def encode_top_k(ids: np.ndarray, log_probs: np.ndarray, least_log_prob: float = LEAST_LOG_PROB) -> bytes:
    """The teacher's best words of each token of a window.

    Args:
      ids: int [N, k], distinct within a token.
      log_probs: float [N, k], in nats.
      least_log_prob: words below it are left out, and so belong to the tail.

    Returns:
      What `decode_top_k` reads.

    Raises:
      TargetsError: if a log-probability is NaN, infinite, or above 0.
    """
    wrong = np.argwhere(~(np.isfinite(log_probs) & (log_probs <= 1e-3)))
    if len(wrong):
        token, rank = wrong[0]
        raise TargetsError(
            f"the teacher's log-probability of word {int(ids[token, rank])} at position {token} is {log_probs[token, rank]}: it must be "
            "a finite number of at most 0; check the teacher's weights and teacher.dtype"
        )
    codes = np.rint(_STEPS * np.sqrt(-np.minimum(log_probs, 0.0))).astype(np.int64)
    return _pack(ids, codes, (codes <= 255) & (log_probs >= least_log_prob), 1)


def decode_top_k(data: bytes, tokens: int, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """What `encode_top_k` wrote: int32 [N, k] in rising order, and float32 [N, k] in nats; free places hold word 0 and `NO_WORD`.

    Raises:
      TargetsError: if the bytes are damaged, or of another number of tokens, or hold more than `top_k` words for one.
    """
    ids, codes, places = _unpack(data, tokens, top_k, 1)
    values = -np.square(codes / _STEPS)
    sums = np.bincount(places[0], np.exp(values), tokens)
    log_probs = np.full([tokens, top_k], NO_WORD, np.float32)
    log_probs[places] = values - np.log(np.maximum(sums, 1.0))[places[0]]
    return _spread(ids, places, tokens, top_k), log_probs


def encode_draws(ids: np.ndarray) -> bytes:
    """Words drawn from the teacher for each token of a window: int [N, draws], any order, with repetitions. Nothing is lost."""
    ordered = np.sort(ids, axis=1)
    first = np.diff(ordered, axis=1, prepend=-1) != 0
    # A word's count is the distance to the next word that differs; a token ends where the next begins.
    starts = np.flatnonzero(first)
    counts = np.zeros(ordered.shape, np.int64)
    counts[first] = np.diff(starts, append=ordered.size)
    return _pack(ordered, counts - 1, first, 2)


def decode_draws(data: bytes, tokens: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """What `encode_draws` wrote: distinct words int32 [N, draws] and the log of their share of the draws, float32 [N, draws].

    Free places hold word 0 and `NO_WORD`.

    Raises:
      TargetsError: if the bytes are damaged, or of other numbers of tokens or draws.
    """
    ids, repetitions, places = _unpack(data, tokens, draws, 2)
    counts = repetitions + 1
    if np.any(np.bincount(places[0], counts, tokens) != draws):
        raise TargetsError(f"stored targets hold another number of draws than {draws} a token")
    log_shares = np.full([tokens, draws], NO_WORD, np.float32)
    log_shares[places] = np.log(counts / draws)
    return _spread(ids, places, tokens, draws), log_shares


def _pack(ids: np.ndarray, codes: np.ndarray, kept: np.ndarray, code_bytes: int) -> bytes:
    ids = ids.astype(np.int64)
    order = np.argsort(np.where(kept, ids, np.iinfo(np.int64).max), axis=1, kind="stable")
    ids, codes, kept = (np.take_along_axis(values, order, axis=1) for values in (ids, codes, kept))
    differences = np.diff(ids, axis=1, prepend=0)
    # Three bytes hold Gemma's 262,144 words.
    planes = [_planes(kept.sum(axis=1), 2), _planes(differences[kept], 3), _planes(codes[kept], code_bytes)]
    return zlib.compress(b"".join(planes), level=9)


def _planes(values: np.ndarray, count: int) -> bytes:
    return b"".join(((values >> (8 * i)) & 255).astype(np.uint8).tobytes() for i in range(count))


def _unpack(data: bytes, tokens: int, most_words: int, code_bytes: int) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Ids and codes of all words, and their places (token, rank)."""
    try:
        raw = np.frombuffer(zlib.decompress(data), np.uint8)
    except zlib.error as error:
        raise TargetsError(f"stored targets are damaged ({error}): score the corpus again") from error
    if len(raw) < 2 * tokens:
        raise TargetsError(f"stored targets are not those of {tokens} tokens: score the corpus again")
    lengths = _number(raw[: 2 * tokens], 2)
    words = int(lengths.sum())
    if len(raw) != 2 * tokens + (3 + code_bytes) * words or (words and lengths.max() > most_words):
        raise TargetsError(f"stored targets are not those of {tokens} tokens with at most {most_words} words each: score the corpus again")
    differences = _number(raw[2 * tokens : 2 * tokens + 3 * words], 3)
    codes = _number(raw[2 * tokens + 3 * words :], code_bytes)
    starts = np.cumsum(lengths) - lengths
    sums = np.cumsum(differences)
    before = np.concatenate([[0], sums])[starts]
    ids = sums - np.repeat(before, lengths)
    ranks = np.arange(words) - np.repeat(starts, lengths)
    return ids, codes, (np.repeat(np.arange(tokens), lengths), ranks)


def _number(planes: np.ndarray, count: int) -> np.ndarray:
    planes = planes.reshape(count, -1).astype(np.int64)
    return sum(plane << (8 * i) for i, plane in enumerate(planes))  # type: ignore[return-value]


def _spread(ids: np.ndarray, places: tuple[np.ndarray, np.ndarray], tokens: int, width: int) -> np.ndarray:
    spread = np.zeros([tokens, width], np.int32)
    spread[places] = ids
    return spread
