"""How much of what a model writes it has written before."""

from collections.abc import Iterable, Sequence

_WORDS = 4


def repetition_rate(completions: Iterable[Sequence[int]]) -> float | None:
    """Share of the 4-grams of completions that their own completion already had (Welleck et al. 2020, "Neural Text Generation With
    Unlikelihood Training", seq-rep-4, over all completions together).

    Args:
      completions: token ids of each, without its prompt.

    Returns:
      Between 0, nothing twice, and 1; none where no completion has four tokens.
    """
    total = distinct = 0
    for ids in completions:
        grams = [tuple(ids[start : start + _WORDS]) for start in range(len(ids) - _WORDS + 1)]
        total += len(grams)
        distinct += len(set(grams))
    return 1 - distinct / total if total else None
