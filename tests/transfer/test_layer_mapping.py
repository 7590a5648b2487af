"""Pairs of layers for teachers and students of any depth."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.transfer.layer_mapping import IntermediateLayerMapping, cheapest_rising

DEPTHS = st.integers(1, 40)


def mapping_and_similarity(strategy: str, teacher: int, student: int, same_kind: bool = False):
    random = np.random.default_rng(100 * teacher + student)
    kept = sorted(random.choice(teacher, student, replace=False).tolist()) if strategy == "subset" else None
    return IntermediateLayerMapping(strategy, kept_layers=kept, same_kind=same_kind), random.uniform(size=(student, teacher))


def is_global(layer: int) -> bool:
    return layer % 6 == 5


@pytest.mark.parametrize("strategy", ["uniform", "last", "subset", "adaptive"])
@settings(max_examples=40)
@given(teacher=DEPTHS, student=DEPTHS)
def test_every_student_layer_has_a_teacher_layer_and_both_rise(strategy, teacher, student):
    if strategy == "subset":
        student = min(student, teacher)
    mapping, similarity = mapping_and_similarity(strategy, teacher, student)
    theirs, mine = zip(*mapping.create_mapping(teacher, student, similarity=similarity), strict=True)
    assert list(mine) == list(range(student))
    assert all(0 <= layer < teacher for layer in theirs)
    assert all(b - a >= (1 if teacher >= student else 0) for a, b in itertools.pairwise(theirs))
    if strategy != "adaptive":
        assert theirs[-1] == teacher - 1


@pytest.mark.parametrize("strategy", ["uniform", "last", "subset", "adaptive"])
@settings(max_examples=40)
@given(teacher=DEPTHS, student=DEPTHS)
def test_layers_of_the_same_kind_only(strategy, teacher, student):
    if strategy == "subset":
        student = min(student, teacher)
    mapping, similarity = mapping_and_similarity(strategy, teacher, student, same_kind=True)
    pairs = mapping.create_mapping(teacher, student, similarity=similarity)
    # Every teacher has a local layer; one of fewer than six layers has no global one.
    assert [mine for _, mine in pairs] == [layer for layer in range(student) if teacher >= 6 or not is_global(layer)]
    for kind in (True, False):
        theirs = [layer for layer, mine in pairs if is_global(mine) == kind]
        assert all(is_global(layer) == kind for layer in theirs)
        enough = sum(is_global(layer) == kind for layer in range(teacher)) >= len(theirs)
        assert all(b - a >= (1 if enough else 0) for a, b in itertools.pairwise(theirs))


@pytest.mark.parametrize("strategy", ["uniform", "last", "subset", "adaptive"])
@pytest.mark.parametrize("same_kind", [False, True])
def test_equal_depths_are_paired_one_to_one(strategy, same_kind):
    mapping = IntermediateLayerMapping(strategy, kept_layers=range(13), same_kind=same_kind)
    similarity = np.random.default_rng(0).uniform(size=(13, 13))
    assert mapping.create_mapping(13, 13, similarity=similarity) == [(layer, layer) for layer in range(13)]


@pytest.mark.parametrize(
    ("strategy", "teacher", "student", "expected"),
    [
        ("uniform", 18, 6, [2, 5, 8, 11, 14, 17]),
        ("uniform", 7, 3, [2, 4, 6]),
        ("uniform", 18, 1, [17]),
        ("uniform", 2, 5, [0, 0, 1, 1, 1]),
        ("last", 18, 4, [14, 15, 16, 17]),
        ("last", 2, 4, [0, 0, 0, 1]),
        ("last", 1, 3, [0, 0, 0]),
    ],
)
def test_pairs_by_hand(strategy, teacher, student, expected):
    assert IntermediateLayerMapping(strategy).create_mapping(teacher, student) == list(zip(expected, range(student), strict=True))


def test_a_subset_learns_what_the_next_kept_layer_is_used_to():
    mapping = IntermediateLayerMapping("subset", kept_layers=(0, 3, 4, 10))
    assert mapping.create_mapping(18, 4) == [(2, 0), (3, 1), (9, 2), (17, 3)]


def test_same_kind_takes_the_nearest():
    pairs = IntermediateLayerMapping(same_kind=True).create_mapping(18, 6)
    # Uniform gives 2, 5, 8, 11, 14, 17, of which 5 and 11 are global and 17 is for the only global layer of the student.
    assert pairs == [(2, 0), (4, 1), (8, 2), (10, 3), (14, 4), (17, 5)]


def brute_force(cost: np.ndarray) -> float:
    rows, columns = cost.shape
    choose = itertools.combinations if columns >= rows else itertools.combinations_with_replacement
    return min(sum(cost[row, column] for row, column in enumerate(columns)) for columns in choose(range(columns), rows))


@settings(max_examples=60)
@given(rows=st.integers(1, 5), columns=st.integers(1, 6), seed=st.integers(0, 999), ties=st.booleans())
def test_adaptive_is_the_best_of_all_assignments(rows, columns, seed, ties):
    similarity = np.random.default_rng(seed).uniform(size=(rows, columns))
    if ties:
        similarity = np.round(similarity, 1)
    pairs = IntermediateLayerMapping("adaptive").create_mapping(columns, rows, similarity=similarity)
    assert sum(similarity[mine, theirs] for theirs, mine in pairs) == pytest.approx(-brute_force(-similarity))
    assert cheapest_rising(-similarity) == [theirs for theirs, _ in pairs]


def test_what_cannot_be_mapped_is_refused():
    uniform, adaptive = IntermediateLayerMapping(), IntermediateLayerMapping("adaptive")
    with pytest.raises(ConfigError, match="teacher_layers of a layer mapping must be at least 1, not 0"):
        uniform.create_mapping(0, 3)
    with pytest.raises(ConfigError, match="student_layers of a layer mapping must be at least 1, not -2"):
        uniform.create_mapping(3, -2)
    with pytest.raises(ConfigError, match="layer mapping must be one of uniform, last, subset, adaptive, not 'first'"):
        IntermediateLayerMapping("first")
    with pytest.raises(ConfigError, match="subset needs a student that began as layers of the teacher"):
        IntermediateLayerMapping("subset")
    with pytest.raises(ConfigError, match="adaptive needs the similarity of the layers"):
        adaptive.create_mapping(3, 2)
    with pytest.raises(ConfigError, match=r"teacher layers\] = \[2, 3\], not \[3, 2\]"):
        adaptive.create_mapping(3, 2, similarity=np.zeros((3, 2)))
    with pytest.raises(ConfigError, match="with NaN or infinity in it"):
        adaptive.create_mapping(3, 2, similarity=np.full((2, 3), np.nan))


@pytest.mark.parametrize("kept", [(0, 1), (0, 2, 1), (0, 1, 1), (0, 1, 6), (-1, 0, 1)])
def test_kept_layers_that_do_not_fit_are_refused(kept):
    with pytest.raises(ConfigError, match=r"must be 3 rising layers of the teacher's 0 to 5, one for each layer of the student, not \["):
        IntermediateLayerMapping("subset", kept_layers=kept).create_mapping(6, 3)
