"""Checkpoints resume to the same bits; TensorBoard's own reader finds the scalars."""

import functools
import json
import math
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gemma_tf_distill.config import DistillationConfig, TrainingConfig
from gemma_tf_distill.data.batches import training_batches
from gemma_tf_distill.monitoring import progress
from gemma_tf_distill.monitoring.input_wait import InputWait
from gemma_tf_distill.training import loop
from gemma_tf_distill.training.divergence import DivergenceError
from gemma_tf_distill.training.loop import Run, fit, steps_for

TRAINING = TrainingConfig(batch_size=4, learning_rate=5e-3, checkpoint_every=3, log_every=2)


class Killed(Exception):
    """What a pre-empted machine does to a run."""


def train(student, scored, folder, *, total_steps=8, training=TRAINING, die_after=None, batches=None):
    def whole_or_killed(skip):
        found = training_batches(scored.files, window=scored.window, top_k=scored.top_k, batch_size=4, seed=5, skip=skip)
        if die_after is None:
            return found
        return Dying(found, die_after)

    fit(
        student,
        Run(name="student", learn_from_teacher=True, checkpoints=str(folder / "checkpoints"), tensorboard=str(folder / "events")),
        batches or whole_or_killed,
        training=training,
        distillation=DistillationConfig(top_k=scored.top_k),
        total_steps=total_steps,
    )


class Dying:
    """A dataset that raises after some batches."""

    def __init__(self, dataset, after):
        self._dataset, self._after = dataset, after

    def take(self, count):
        for i, batch in enumerate(self._dataset.take(count)):
            if i == self._after:
                raise Killed
            yield batch


def test_a_killed_run_resumes_to_the_same_bits(scored_windows, make_student, tmp_path):
    whole, resumed = make_student(), make_student()
    train(whole, scored_windows, tmp_path / "whole")
    with pytest.raises(Killed):
        train(resumed, scored_windows, tmp_path / "resumed", die_after=5)
    resumed = make_student(seed=9)
    train(resumed, scored_windows, tmp_path / "resumed")
    for got, want in zip(resumed.backbone.get_weights(), whole.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


class Slow:
    """A dataset that is slower than any step."""

    def __init__(self, dataset):
        self._dataset = dataset

    def take(self, count):
        for batch in self._dataset.take(count):
            time.sleep(0.5)
            yield batch


def test_scalars_from_the_first_step_and_progress(scored_windows, make_student, tmp_path, monkeypatch):
    monkeypatch.setenv(progress.ENVIRONMENT_VARIABLE, str(tmp_path / "progress.jsonl"))
    monkeypatch.setattr(loop, "InputWait", functools.partial(InputWait, steps=3))
    found = training_batches(scored_windows.files, window=scored_windows.window, top_k=scored_windows.top_k, batch_size=4, seed=5)
    train(make_student(), scored_windows, tmp_path, batches=lambda skip: Slow(found.skip(skip)))
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"tensors": 0})
    events.Reload()
    steps = [event.step for event in events.Tensors("distill/loss")]
    assert steps == [1, 2, 4, 6, 8]
    losses = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("distill/loss")]
    assert losses[-1] < losses[0]
    expected = {"distill/soft_loss", "distill/hard_loss", "train/gradient_norm", "train/learning_rate", "data/tokens_per_second"}
    expected |= {
        f"train/{norm}_norm/{group}" for norm in ("gradient", "update") for group in ("embedding", "attention", "feed_forward", "norms")
    }
    expected |= {
        "distill/loss_mean",
        "distill/loss_slope_error",
        "data/tokens_seen",
        "train/step_seconds",
        "hardware/mfu",
        "hardware/host/own_cpu",
    }
    assert expected <= set(events.Tags()["tensors"])
    waited = {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("data/wait_fraction")}
    assert list(waited) == [4, 6, 8] and all(0.05 < fraction < 1 for fraction in waited.values())
    verdicts = [str(tf.make_ndarray(event.tensor_proto).item(), "utf-8") for event in events.Tensors("hardware/verdict")]
    assert any(text.split(":")[0] in ("input-bound", "memory-bound") for text in verdicts)
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    told = [line for line in lines if line["event"] == "progress"]
    assert len(told) == 5 and told[-1]["done"] == 8 * 4 * scored_windows.window
    # A machine that others use, too, may be worth another warning.
    warnings = [line["message"] for line in lines if line["event"] == "warning"]
    assert len([message for message in warnings if message.startswith("student: training waits ")]) == 1


def test_a_loss_that_is_no_number_stops_with_advice(scored_windows, make_student, tmp_path):
    student = make_student()
    student.backbone.trainable_variables[0].assign(student.backbone.trainable_variables[0].value * math.nan)
    with pytest.raises(DivergenceError, match=r"step 1 of 8: lower training\.learning_rate \(now 0\.005\)"):
        train(student, scored_windows, tmp_path)
    # It is shown, not left out.
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"tensors": 0})
    events.Reload()
    for name in ("distill/loss", "distill/loss_mean", "train/gradient_norm/attention"):
        (shown,) = events.Tensors(name)
        assert math.isnan(tf.make_ndarray(shown.tensor_proto))


@pytest.mark.parametrize(("name", "wrong"), [("teacher_log_probs", math.nan), ("teacher_ids", 1_000_000), ("teacher_ids", -1)])
def test_targets_that_are_no_targets_are_named_before_anything_is_saved(scored_windows, make_student, tmp_path, name, wrong):
    def batches(skip):
        found = training_batches(scored_windows.files, window=scored_windows.window, top_k=scored_windows.top_k, batch_size=4, seed=5)
        # Only in the third batch, after whose step a checkpoint is due and no log line.
        return found.enumerate().map(lambda i, batch: {**batch, name: tf.where(i == 2, tf.cast(wrong, batch[name].dtype), batch[name])})

    with pytest.raises(
        DivergenceError, match=r"by step 3 of 8 that are not all numbers, or of words beyond its \d+: score the corpus again"
    ):
        train(make_student(), scored_windows, tmp_path, batches=batches)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_steps_for_counts_partial_epochs():
    assert steps_for(TrainingConfig(epochs=0.5, batch_size=4), 22) == 3
    assert steps_for(TrainingConfig(epochs=2, batch_size=4), 22) == 11
    assert steps_for(TrainingConfig(epochs=0.01, batch_size=4), 22) == 1
