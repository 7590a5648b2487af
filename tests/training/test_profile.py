"""Profiles of steps that a config names, or that are asked for while training goes on, as XProf's own converter reads them."""

import contextlib
import json
import os
import signal
import socket
import threading

import pytest
import tensorflow as tf
from tensorflow.python.profiler.internal import _pywrap_profiler

from gemma_tf_distill.config import DistillationConfig, TrainingConfig
from gemma_tf_distill.data.batches import training_batches
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.monitoring.profile_window import ProfileWindow
from gemma_tf_distill.monitoring.profiler_server import check_profiler_port
from gemma_tf_distill.monitoring.progress import listening
from gemma_tf_distill.training.loop import Run, fit

raw_to_tool_data = pytest.importorskip("xprof.convert.raw_to_tool_data", exc_type=ImportError)


def train(student, scored, folder, steps=7, before=lambda number: None, **training):
    """Trains for some steps, with a call before each batch is handed out, and returns the notes that it wrote."""

    def batches(skip):
        found = training_batches(scored.files, window=scored.window, top_k=scored.top_k, batch_size=4, seed=5, skip=skip)
        return Announced(found.repeat(), before)

    notes = []
    with listening(lambda event: notes.append(event["message"]) if event["event"] == "note" else None):
        fit(
            student,
            Run(name="student", learn_from_teacher=True, checkpoints=str(folder / "checkpoints"), tensorboard=str(folder / "events")),
            batches,
            training=TrainingConfig(batch_size=4, **training),
            distillation=DistillationConfig(top_k=scored.top_k),
            total_steps=steps,
        )
    return notes


class Announced:
    """A dataset that calls before it hands a batch out, by the batch's number from 1."""

    def __init__(self, dataset, before):
        self._dataset, self._before = dataset, before

    def take(self, count):
        for i, batch in enumerate(self._dataset.take(count)):
            self._before(i + 1)
            yield batch


def tool(folder, name):
    """A tool's answer about the one profile in a folder."""
    (profile,) = (folder / "plugins" / "profile").glob("*/*.xplane.pb")
    data, _ = raw_to_tool_data.xspace_to_tool_data([str(profile)], name, {})
    return data if isinstance(data, str) else data.decode()


def marked_steps(folder):
    text = tool(folder, "overview_page")
    assert "no step marker" not in text.lower()
    (steps,) = [table for table in json.loads(text) if {"stepnum", "stepTimeMs"} <= {column["id"] for column in table.get("cols", [])}]
    return [row["c"][0]["v"] for row in steps["rows"]]


def test_xprof_finds_the_steps_of_the_window(scored_windows, make_student, tmp_path):
    train(make_student(), scored_windows, tmp_path, profile_steps=(3, 5))
    events = tmp_path / "events"
    assert marked_steps(events) == ["train 3", "train 4", "train 5"]
    # What a CPU has of the other tools; XProf's op_profile and memory_viewer are about devices.
    operations = {row["c"][3]["v"]: row["c"][4]["v"] for row in json.loads(tool(events, "framework_op_stats"))[0]["rows"]}
    assert operations["ParseExample/ParseExampleV2"] == 3
    (memory,) = json.loads(tool(events, "memory_profile"))["memoryProfilePerAllocator"].values()
    assert int(memory["profileSummary"]["peakStats"]["peakBytesInUse"]) > 0


def test_a_window_beyond_the_last_step_is_refused_before_anything_runs(scored_windows, make_student, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.profile_steps is \[6, 9\], but training takes 7 steps"):
        train(make_student(), scored_windows, tmp_path, profile_steps=(6, 9))
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def handler_of_somebody_else():
    heard = []
    former = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        yield heard
        # Training has put it back.
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard[-1] == signal.SIGUSR1
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_a_signal_has_the_next_steps_profiled(scored_windows, make_student, tmp_path):
    def send(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    with handler_of_somebody_else() as heard:
        notes = train(make_student(), scored_windows, tmp_path, 10, send)
        assert heard == [signal.SIGUSR1]
    assert marked_steps(tmp_path / "events") == ["train 4", "train 5", "train 6", "train 7", "train 8"]
    assert notes == [
        f"student: kill -USR1 {os.getpid()} takes a profile of the next 5 steps",
        f"student: a profile is in {tmp_path / 'events'}: see Profile on TensorBoard",
    ]


def test_a_thread_that_gets_no_signals_trains_without(scored_windows, make_student, tmp_path):
    notes = []
    with handler_of_somebody_else():
        thread = threading.Thread(target=lambda: notes.extend(train(make_student(), scored_windows, tmp_path, 1)))
        thread.start()
        thread.join()
    assert len(notes) == 1 and notes[0].startswith("student: no signal takes a profile, since training is not in the main thread")


def test_a_profile_that_is_asked_for_waits_for_another_one(tmp_path):
    window = ProfileWindow(None, str(tmp_path / "ours"), 10, "student")
    window.ask()
    tf.profiler.experimental.start(str(tmp_path / "theirs"))
    with window.step(1):
        pass
    window.after(1, tf.constant(0.0))
    tf.profiler.experimental.stop()
    assert list((tmp_path / "theirs").glob("plugins/profile/*/*.xplane.pb"))
    # As the server does it that TensorBoard calls.
    theirs = _pywrap_profiler.ProfilerSession()
    theirs.start(str(tmp_path), {})
    with window.step(2):
        pass
    del theirs
    assert not (tmp_path / "ours").exists()
    with window.step(3):
        pass
    window.close()
    assert list((tmp_path / "ours").glob("plugins/profile/*/*.xplane.pb"))


class Enough(Exception):
    """Ends a training that goes on until it was looked at."""


def test_a_profile_is_captured_at_the_port(scored_windows, make_student, tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"training\.profiler_port is {port}, where nothing can listen \(Address already in use\)"):
            train(make_student(), scored_windows, tmp_path, profiler_port=port)
    assert not list(tmp_path.iterdir())
    captured = tmp_path / "captured"
    capture = threading.Thread(target=lambda: tf.profiler.experimental.client.trace(f"grpc://localhost:{port}", str(captured), 1000))

    def look(number):
        if number == 3:
            capture.start()
        elif number > 3 and not capture.is_alive():
            raise Enough

    with pytest.raises(Enough):
        train(make_student(), scored_windows, tmp_path, 10**6, look, profiler_port=port, log_every=10**6, checkpoint_every=10**6)
    assert len(marked_steps(captured)) > 0
    # It is this process that listens there now.
    check_profiler_port(port)
