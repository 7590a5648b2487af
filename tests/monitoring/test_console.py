"""What a person sees of a run."""

import io
import json
import re

import pytest

from gemma_tf_distill.monitoring.console import JsonDisplay, TextDisplay, duration


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


def test_warnings_and_notes_are_lines_of_their_own(clock):
    stream = io.StringIO()
    display = TextDisplay(stream, live=False, clock=clock)
    display.show({"time": 0.0, "event": "warning", "message": "a full disk"})
    display.show({"time": 0.0, "event": "note", "message": "kill -USR1 7 takes a profile"})
    assert stream.getvalue().splitlines() == ["warning: a full disk", "kill -USR1 7 takes a profile"]


def test_json_lines_are_passed_on():
    stream = io.StringIO()
    display = JsonDisplay(stream)
    for event in (PIPELINE, progress(1.0, 2)):
        display.show(event)
        display.tick()
    display.close()
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [PIPELINE, progress(1.0, 2)]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (3599.6, "1 h 0 min"), (3900, "1 h 5 min")]
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
