"""Which layer of the teacher each layer of the student learns from."""

from collections.abc import Sequence

import numpy as np

from gemma_tf_distill.config.checking import check
from gemma_tf_distill.config.distillation import LAYER_MAPPINGS
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.model import is_local


class IntermediateLayerMapping:
    """Pairs of layers, for a teacher and a student of any two depths.

    * `uniform`: evenly spread, the last layer to the last (Jiao et al. 2020, TinyBERT, section 3.1: g(m) = m N / M, rounded up).
    * `last`: the student's layers with as many of the teacher's last ones; a deeper student's first layers share the first.
    * `subset`: for a student that began as some layers of the teacher. Each is paired with the teacher's layer just before the next
      kept one, and the last with the last: the student's layer learns to do alone what all those layers did, so that the next one
      is given what it is used to.
    * `adaptive`: the pairs whose attention patterns are most alike in sum, in the order of the layers.
    """

    def __init__(self, strategy: str = "uniform", *, kept_layers: Sequence[int] | None = None, same_kind: bool = False):
        """Args:
          strategy: one of the above.
          kept_layers: the teacher's layers that the student began as, in rising order; `subset` needs them, the others ignore them.
          same_kind: pair local layers with local and global with global ones only, since a sliding window can't show what lies
            outside it. Each goes to the layer of its kind that fits best, and is left out where the teacher has none. Pairs then
            keep the layers' order within each kind.

        Raises:
          ConfigError: for an unknown strategy, or `subset` without `kept_layers`.
        """
        check(strategy in LAYER_MAPPINGS, "layer mapping", f"one of {', '.join(LAYER_MAPPINGS)}", strategy)
        if strategy == "subset" and kept_layers is None:
            raise ConfigError(
                "layer mapping subset needs a student that began as layers of the teacher: set student.layers, or use uniform"
            )
        self._strategy = strategy
        self._kept_layers = kept_layers
        self._same_kind = same_kind

    def create_mapping(self, teacher_layers: int, student_layers: int, *, similarity: np.ndarray | None = None) -> list[tuple[int, int]]:
        """The compared layers, from the student's first to its last.

        Args:
          teacher_layers: depth of the teacher.
          student_layers: depth of the student.
          similarity: float [student_layers, teacher_layers], how alike the layers are, as `attention_similarity` measures it;
            `adaptive` needs it, the others ignore it.

        Returns:
          Pairs (teacher layer, student layer), one for each layer of the student. The teacher's layers rise; they repeat only where
          it has fewer.

        Raises:
          ConfigError: for a depth below 1, kept layers that don't fit the depths, or a similarity that is missing or of another shape.
        """
        check(teacher_layers >= 1, "teacher_layers of a layer mapping", "at least 1", teacher_layers)
        check(student_layers >= 1, "student_layers of a layer mapping", "at least 1", student_layers)
        if self._strategy == "adaptive":
            cost = -self._checked(similarity, teacher_layers, student_layers)
        else:
            targets = np.array(self._targets(teacher_layers, student_layers))
            cost = np.abs(np.arange(teacher_layers)[None, :] - targets[:, None]).astype(float)
        pairs: list[tuple[int, int]] = []
        for theirs, mine in self._groups(teacher_layers, student_layers):
            if theirs and mine:
                places = cheapest_rising(cost[np.ix_(mine, theirs)])
                pairs += zip((theirs[place] for place in places), mine, strict=True)
        return sorted(pairs, key=lambda pair: pair[1])

    def _targets(self, teacher_layers: int, student_layers: int) -> list[int]:
        """For each student layer, the teacher layer that it would have if its kind did not matter."""
        if self._strategy == "uniform":
            return [-(-(layer + 1) * teacher_layers // student_layers) - 1 for layer in range(student_layers)]
        if self._strategy == "last":
            return [max(0, teacher_layers - student_layers + layer) for layer in range(student_layers)]
        kept = list(self._kept_layers or ())
        fits = len(kept) == student_layers and kept == sorted(set(kept)) and kept[0] >= 0 and kept[-1] < teacher_layers
        check(
            fits,
            "kept_layers of a layer mapping",
            f"{student_layers} rising layers of the teacher's 0 to {teacher_layers - 1}, one for each layer of the student",
            kept,
        )
        return [layer - 1 for layer in kept[1:]] + [teacher_layers - 1]

    def _groups(self, teacher_layers: int, student_layers: int) -> list[tuple[list[int], list[int]]]:
        """Layers of the teacher and of the student that may be paired with each other."""
        if not self._same_kind:
            return [(list(range(teacher_layers)), list(range(student_layers)))]

        def of_kind(layers: int, local: bool) -> list[int]:
            return [layer for layer in range(layers) if is_local(layer, {"use_sliding_window_attention": True}) == local]

        return [(of_kind(teacher_layers, local), of_kind(student_layers, local)) for local in (True, False)]

    @staticmethod
    def _checked(similarity: np.ndarray | None, teacher_layers: int, student_layers: int) -> np.ndarray:
        if similarity is None:
            raise ConfigError(
                "layer mapping adaptive needs the similarity of the layers: measure it with attention_similarity on a few windows"
            )
        similarity = np.asarray(similarity, float)
        shape = (student_layers, teacher_layers)
        if similarity.shape != shape or not np.all(np.isfinite(similarity)):
            found = f"{list(similarity.shape)}{'' if np.all(np.isfinite(similarity)) else ' with NaN or infinity in it'}"
            raise ConfigError(
                f"the similarity of a layer mapping must be finite, [student layers, teacher layers] = {list(shape)}, not {found}"
            )
        return similarity


def cheapest_rising(cost: np.ndarray) -> list[int]:
    """The rising choice of one column in each row that costs least in sum, by dynamic programming.

    Args:
      cost: float [rows, columns], finite.

    Returns:
      A column for each row: strictly rising, or never falling where there are fewer columns than rows.
    """
    rows, columns = cost.shape
    strict = columns >= rows
    totals = [cost[0]]  # Of each row: the least sum up to here if it takes that column.
    for row in cost[1:]:
        before = np.minimum.accumulate(totals[-1])
        totals.append(row + (np.concatenate([[np.inf], before[:-1]]) if strict else before))
    chosen: list[int] = []
    end = columns
    for total in reversed(totals):
        chosen.insert(0, int(np.argmin(total[:end])))
        end = chosen[0] + (0 if strict else 1)
    return chosen
