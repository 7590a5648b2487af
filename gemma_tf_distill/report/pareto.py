"""Which of several models no other one beats."""

from collections.abc import Sequence


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[int]:
    """The places of all points that no other point is at least as good as in both costs and better in one.

    Args:
      costs: two figures a point, each the lower the better.

    Returns:
      Places in `costs`, by the first cost and then by place. Equal points are all in or all out.
    """
    order = sorted(range(len(costs)), key=lambda place: (*costs[place], place))
    front: list[int] = []
    best = float("inf")
    for place in order:
        if costs[place][1] < best or (front and costs[place] == costs[front[-1]]):
            front.append(place)
            best = costs[place][1]
    return front
