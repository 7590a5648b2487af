"""What a person sees of a run."""

import io
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from gemma_tf_distill.monitoring.console import QuietDisplay, TextDisplay
from gemma_tf_distill.monitoring.pace import Pace, duration


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def progress(time: float, done: int, total: int | None = 210_000, **figures: float) -> dict:
    return {"time": time, "event": "progress", "task": "student", "done": done, "total": total, "unit": "tokens", "figures": figures}


def node(name: str, state: str) -> dict:
    return {"time": 0.0, "event": "node", "node": name, "state": state}


PIPELINE = {"time": 0.0, "event": "pipeline", "nodes": ["CorpusGen", "Distiller"]}


def test_plain_lines_say_which_node_and_how_far(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=False, clock=clock)
    display.show({"time": 0.0, "event": "stage", "stage": "starting TFX"})
    display.show(PIPELINE)
    display.show(node("CorpusGen", "running"))
    display.show(node("CorpusGen", "cached"))
    display.show(node("Distiller", "running"))
    display.show(progress(0.0, 0, loss=9.5))
    display.show(progress(10.0, 12_900, loss=3.91234))
    clock.now += 9
    display.tick()
    assert stream.getvalue().count("student") == 0  # Not yet ten seconds.
    clock.now += 2
    display.tick()
    display.tick()
    clock.now += 190
    display.show(node("Distiller", "complete"))
    display.close()
    assert stream.getvalue().splitlines() == [
        "starting TFX …",
        "[ 1/2] CorpusGen …",
        "[ 1/2] CorpusGen unchanged, taken from cache",
        "[ 2/2] Distiller …",
        "[ 2/2] Distiller student: 12,900 of 210,000 tokens (6 %), loss 3.912, 1,290 tokens/s, 2 min 33 s left",
        "[ 2/2] Distiller done in 3 min 21 s",
    ]


def test_the_live_line_is_rewritten_and_never_wider_than_the_terminal(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = io.StringIO()
    display = TextDisplay(stream, live=True, clock=clock)
    display.show({"time": 0.0, "event": "stage", "stage": "starting TFX"})
    display.tick()
    display.show(PIPELINE)
    display.show(node("Distiller", "running"))
    for second in range(1, 60):
        clock.now += 1
        display.show(progress(float(second), 1000 * second, loss=4.0))
        display.tick()
    display.show(node("Distiller", "complete"))
    display.close()
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\r\x1b[K[ 2/2] Distiller done in 59 s\n")
    assert max(len(line) for line in re.split(r"\r\x1b\[K|\n", text)) < 60


def test_a_step_that_stands_still_is_not_repeated(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=False, clock=clock)
    display.show(PIPELINE)
    display.show(node("Distiller", "running"))
    display.show(progress(1.0, 5))
    for _ in range(5):
        clock.now += 11
        display.tick()
    assert stream.getvalue().count("student: 5 of 210,000 tokens") == 1


def test_the_rate_is_that_of_the_last_half_minute_and_survives_a_resumed_run(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=False, clock=clock)
    display.show(PIPELINE)
    display.show(node("Distiller", "running"))
    # 50 slow seconds (compilation), then 40 quick ones, 1,000 tokens a second; it began at 100,000, where a killed run ended.
    display.show(progress(0.0, 100_000))
    for second in range(40):
        display.show(progress(50.0 + second, 100_100 + 1000 * second))
    clock.now += 100
    display.tick()
    assert "1,000 tokens/s" in stream.getvalue()


def test_steps_without_a_total_or_rate_are_shown_too(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=False, clock=clock)
    display.show(progress(5.0, 3, total=None))
    clock.now += 11
    display.tick()
    assert stream.getvalue().strip() == "student: 3 tokens"


def test_a_failed_node_is_said(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=False, clock=clock)
    display.show(PIPELINE)
    display.show(node("Distiller", "running"))
    display.show(node("Distiller", "failed"))
    assert stream.getvalue().splitlines()[-1] == "[ 2/2] Distiller failed"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (3900, "1 h 5 min"),
        (-3, "0 s"),
        (97_300, "1 d 3 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_warning_is_a_line_of_its_own_above_the_one_that_moves(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=True, clock=clock)
    display.show(PIPELINE)
    display.show(node("Distiller", "running"))
    display.tick()
    display.show({"time": 1.0, "event": "warning", "message": "training waits 12 % of its time for data"})
    display.tick()
    written = stream.getvalue().split("\n")
    assert written[0].endswith("\x1b[Kwarning: training waits 12 % of its time for data")
    assert "Distiller" in written[1]


def activity(name: str) -> dict:
    return {"time": 0.0, "event": "activity", "activity": name}


def test_what_is_not_counted_is_told_after_ten_seconds_and_then_every_minute(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=False, clock=clock)
    display.show(PIPELINE)
    display.show(node("Distiller", "running"))
    display.show(activity("loading gguf:package"))
    clock.now += 2
    display.show(activity("writing tflite, format 2 of 4"))
    for _ in range(75):
        clock.now += 1
        display.tick()
    assert stream.getvalue().splitlines() == [
        "[ 2/2] Distiller …",
        "[ 2/2] Distiller writing tflite, format 2 of 4, 8 s",
        "[ 2/2] Distiller writing tflite, format 2 of 4, 1 min 8 s",
    ]


def test_a_node_that_says_nothing_is_seen_to_be_alive(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=False, clock=clock)
    display.show(PIPELINE)
    display.show(node("CorpusGen", "running"))
    for _ in range(71):
        clock.now += 1
        display.tick()
    assert stream.getvalue().splitlines()[1:] == ["[ 1/2] CorpusGen 10 s", "[ 1/2] CorpusGen 1 min 10 s"]


def test_what_is_done_before_any_title_moves_on_a_terminal_and_leaves_nothing(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=True, clock=clock)
    display.tick()
    assert stream.getvalue() == ""
    display.show(activity("loading outputs/student"))
    clock.now += 3
    display.tick()
    display.close()
    assert stream.getvalue() == "\r\x1b[Kloading outputs/student, 3 s\r\x1b[K"


def test_tasks_that_take_turns_keep_their_own_rates(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=False, clock=clock)
    display.show(node("Distiller", "running"))
    for second in range(10):
        display.show({**progress(float(second), 1_000_000 * second), "task": "reading"})
        display.show(progress(float(second), 100 * second))
    clock.now += 11
    display.tick()
    assert "student: 900 of 210,000 tokens (0 %), 100 tokens/s" in stream.getvalue()


def test_quiet_is_warnings_alone():
    stream = io.StringIO()
    display = QuietDisplay(stream)
    for event in (PIPELINE, node("Distiller", "running"), activity("writing"), progress(1.0, 5)):
        display.show(event)
        display.tick()
    display.show({"time": 1.0, "event": "warning", "message": "training waits for data"})
    display.show(node("Distiller", "failed"))
    display.close()
    assert stream.getvalue() == "warning: training waits for data\n"


COUNTS = st.integers(0, 10**15)


@hypothesis.given(
    st.lists(st.tuples(st.floats(0, 1e9), COUNTS, COUNTS | st.none()), min_size=1, max_size=8),
    st.floats(allow_nan=True, allow_infinity=True),
)
def test_whatever_is_counted_what_is_said_makes_sense(points, loss):
    pace = Pace("student")
    for time, done, total in points:
        pace.add(progress(time, done, total, loss=loss))
        said = pace.describe()
        assert said.startswith(f"student: {done:,} ")
        assert all(int(percent) <= 100 for percent in re.findall(r"\((-?\d+) %\)", said))
        assert ("(100 %)" in said) == (total is not None and 0 < total == done)
        assert "-" not in said.replace(f"loss {loss:.4g}", "").replace("e-", "")
        assert " left" not in said or (total is not None and done < total)
        assert "inf" not in said.replace(f"loss {loss:.4g}", "")


@hypothesis.given(st.floats(-1e9, 1e9))
def test_no_time_is_below_zero(seconds):
    assert not duration(seconds).startswith("-")
