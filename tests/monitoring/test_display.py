"""Which display a command has, and how it is fed."""

import io
import threading

import pytest

from gemma_tf_distill.monitoring.console import QuietDisplay, TextDisplay
from gemma_tf_distill.monitoring.display import displayed, make_display
from gemma_tf_distill.monitoring.log_entries import JsonDisplay
from gemma_tf_distill.monitoring.progress import Ticker, doing, listening, warn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Recorder:
    def __init__(self, error: Exception | None = None):
        self.events, self.ticked, self.closed, self.error = [], threading.Event(), False, error

    def show(self, event):
        self.events.append(event)

    def tick(self):
        self.ticked.set()
        if self.error:
            raise self.error

    def close(self):
        self.closed = True


@pytest.mark.parametrize(("style", "kind"), [("text", TextDisplay), ("json", JsonDisplay), ("quiet", QuietDisplay)])
def test_each_style_has_its_display(style, kind):
    assert type(make_display(style, io.StringIO(), io.StringIO())) is kind


def test_quiet_warns_beside_the_result():
    out, errors = io.StringIO(), io.StringIO()
    with displayed(make_display("quiet", out, errors)):
        doing("writing")
        warn("it waits")
    assert (out.getvalue(), errors.getvalue()) == ("", "warning: it waits\n")


@pytest.mark.parametrize(("terminal", "moves"), [("xterm", True), ("dumb", False)])
def test_a_line_moves_only_where_the_terminal_can_take_it_back(monkeypatch, terminal, moves):
    monkeypatch.setenv("TERM", terminal)
    stream = Terminal()
    display = make_display("text", stream, stream)
    display.show({"time": 0.0, "event": "stage", "stage": "starting"})
    display.tick()
    assert ("\x1b" in stream.getvalue()) == moves


def test_events_reach_the_display_and_time_goes_by_without_them():
    display = Recorder()
    with displayed(display):
        doing("writing")
        assert display.ticked.wait(30)
    doing("too late")
    assert [event["activity"] for event in display.events] == ["writing"]
    assert display.closed


def test_the_display_is_closed_after_an_error():
    display = Recorder()
    with pytest.raises(ZeroDivisionError), displayed(display):
        raise ZeroDivisionError
    assert display.closed


def test_a_reader_that_went_away_is_no_error_of_the_clock(recwarn):
    display = Recorder(BrokenPipeError())
    with displayed(display):
        assert display.ticked.wait(30)
    assert display.closed
    assert not [warning for warning in recwarn if "Thread" in str(warning.message)]


def test_a_ticker_tells_of_quick_units_now_and_then(monkeypatch):
    now, told = [0.0], []
    monkeypatch.setattr("gemma_tf_distill.monitoring.progress.time.monotonic", lambda: now[0])
    ticker = Ticker("reading", 100, unit="documents")
    with listening(told.append):
        for second in range(50):
            now[0] = second / 10
            ticker.add(1)
    assert [(event["task"], event["done"], event["total"], event["unit"]) for event in told] == [
        ("reading", 21, 100, "documents"),
        ("reading", 41, 100, "documents"),
    ]
