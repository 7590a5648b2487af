"""Events as Cloud Logging's agents read them."""

import datetime
import io
import json

import pytest

from gemma_tf_distill.monitoring.log_entries import JsonDisplay, LogEntries, rfc3339
from gemma_tf_distill.monitoring.progress import emit, listening, progress, warn


def told(**fields) -> dict:
    return {"time": 1_795_786_593.25, **fields}


REPORT = {"blessed": True, "pushed": "/o/pushed/1"}
EVENTS = [
    (told(event="stage", stage="starting TFX"), "INFO", "starting TFX"),
    (told(event="pipeline", nodes=["CorpusGen", "Distiller"]), "INFO", "2 nodes: CorpusGen, Distiller"),
    (told(event="node", node="CorpusGen", state="running"), "INFO", "CorpusGen is running"),
    (told(event="node", node="CorpusGen", state="cached"), "INFO", "CorpusGen is unchanged, taken from cache"),
    (told(event="node", node="Distiller", state="complete", peak_bytes=5), "INFO", "Distiller is done"),
    (told(event="node", node="Distiller", state="failed"), "ERROR", "Distiller failed"),
    (told(event="activity", activity="writing tflite"), "INFO", "writing tflite"),
    (
        told(event="progress", task="student", done=5, total=20, unit="tokens", figures={"loss": 2.0}),
        "INFO",
        "student: 5 of 20 tokens (25 %), loss 2",
    ),
    (told(event="warning", message="it waits"), "WARNING", "it waits"),
    (told(event="error", kind="user", message="it is empty"), "ERROR", "it is empty"),
    (told(event="outcome", report=REPORT, failures=[], samples=[]), "INFO", "blessed, pushed to /o/pushed/1"),
    (told(event="outcome", report={"blessed": False}, failures=["too bad"], samples=[]), "WARNING", "not blessed; too bad"),
    (told(event="stopped", until="Distiller", folders={}, seconds={}), "INFO", "stopped after Distiller"),
    (told(event="something new"), "INFO", "something new"),
]


@pytest.mark.parametrize(("event", "severity", "message"), EVENTS)
def test_an_entry_says_when_how_bad_and_what_and_keeps_the_fields(event, severity, message):
    entry = json.loads(LogEntries().line(event))
    assert (entry["time"], entry["severity"], entry["message"]) == ("2026-11-27T13:36:33.250000Z", severity, message)
    kept = {name: value for name, value in event.items() if name not in ("time", "message")}
    assert {name: entry[name] for name in kept} == kept
    assert set(entry) == {"time", "severity", "message", *kept}


def test_the_time_is_read_back_by_whoever_knows_rfc_3339():
    assert datetime.datetime.fromisoformat(rfc3339(12.5)).timestamp() == 12.5


def test_how_fast_it_goes_is_in_the_sentence_of_the_second_event():
    entries = LogEntries()
    event = {"event": "progress", "task": "student", "total": 1000, "unit": "tokens", "figures": {}}
    entries.entry({**event, "time": 1.0, "done": 0})
    assert entries.entry({**event, "time": 3.0, "done": 200})["message"] == "student: 200 of 1,000 tokens (20 %), 100 tokens/s, 8 s left"


def test_a_loss_that_is_no_number_does_not_spoil_the_line():
    event = told(event="progress", task="student", done=5, total=None, unit="tokens", figures={"loss": float("nan")})
    line = LogEntries().line(event)
    assert json.loads(line, parse_constant=pytest.fail)["figures"] == {"loss": None}
    assert "loss nan" in line


def test_every_event_is_a_line_of_its_own():
    stream = io.StringIO()
    display = JsonDisplay(stream)
    for event, _, _ in EVENTS:
        display.show(event)
        display.tick()
    display.close()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [event["event"] for event, _, _ in EVENTS]


def test_a_process_without_a_display_prints_entries_where_it_is_told_to(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("GEMMA_DISTILL_PROGRESS", raising=False)
    warn("nobody hears it")
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("GEMMA_DISTILL_LOG", "json")
    monkeypatch.setenv("GEMMA_DISTILL_PROGRESS", str(tmp_path / "events"))
    heard = []
    with listening(heard.append):
        progress("student", 2, 4)
        emit("stage", stage="one\nand another line")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["student: 2 of 4 tokens (50 %)", "one\nand another line"]
    # Events themselves stay as they are.
    assert [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()] == heard
    assert isinstance(heard[0]["time"], float)
