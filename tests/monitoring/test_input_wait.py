"""The share of a loop's time that it waits for batches, by a clock that only batches and steps move."""

import pytest

from gemma_tf_distill.monitoring.input_wait import InputWait


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def run(waits, works, *, steps=20):
    """A loop that waits and works so many seconds for and on each batch; the measure, and what it advised after each."""
    clock, said = Clock(), []

    def batches():
        for number, seconds in enumerate(waits):
            clock.now += seconds
            yield number

    measured = InputWait(batches(), steps=steps, clock=clock)
    seen = []
    for batch, seconds in zip(measured, works, strict=True):
        said.append((measured.fraction, measured.advice()))
        seen.append(batch)
        clock.now += seconds
    assert seen == list(range(len(waits)))
    return measured, said


def test_opening_and_compiling_do_not_count():
    measured, said = run([30.0, 0.0, 1.0, 3.0], [60.0, 9.0, 7.0, 5.0])
    # From the second batch to the third 9 s of work and 1 s of waiting, from there to the fourth 7 s and 3 s.
    assert [fraction for fraction, _ in said] == [None, None, pytest.approx(0.1), pytest.approx(0.2)]
    assert measured.fraction == pytest.approx(0.2)


def test_only_the_latest_steps_are_measured():
    measured, _ = run([0.0, 0.0, 5.0, 5.0, 0.0, 0.0], [1.0] * 6, steps=2)
    assert measured.fraction == 0.0


def test_a_loop_that_waits_is_told_so_once_and_what_to_do():
    _, said = run([0.0, 0.0, *[1.0] * 6], [1.0, *[7.0] * 7], steps=3)
    advice = [text for _, text in said]
    assert advice[:4] == [None] * 4 and advice[5:] == [None] * 3
    assert advice[4].startswith("training waits 12 % of its time for data (last 3 steps): ")
    assert "local disk" in advice[4] and "distillation.top_k" in advice[4]


def test_a_loop_that_hardly_waits_is_left_alone():
    _, said = run([0.05] * 8, [0.95] * 8, steps=3)
    assert [text for _, text in said] == [None] * 8
