"""The front holds exactly what nothing beats."""

from hypothesis import given
from hypothesis import strategies as st

from gemma_tf_distill.report.pareto import pareto_front

# Small whole numbers, so that equal costs are frequent.
COSTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


def beats(a, b) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


@given(costs=COSTS)
def test_a_point_is_on_the_front_if_no_other_beats_it(costs):
    front = pareto_front(costs)
    assert sorted(front) == [place for place, cost in enumerate(costs) if not any(beats(other, cost) for other in costs)]
    assert front == sorted(front, key=lambda place: (costs[place][0], place))
    # Along it one cost rises and the other falls.
    assert [costs[place][1] for place in front] == sorted((costs[place][1] for place in front), reverse=True)


def test_an_example():
    assert pareto_front([(3, 3), (1, 9), (2, 5), (2, 6), (9, 1)]) == [1, 2, 0, 4]
