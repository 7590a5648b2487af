"""A loss that jumps or is no number: told, or answered by going back with a lower learning rate."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gemma_tf_distill.config import DistillationConfig, DivergenceConfig, TrainingConfig, XlaConfig
from gemma_tf_distill.data.batches import training_batches
from gemma_tf_distill.monitoring import progress
from gemma_tf_distill.training.divergence import DivergenceError, DivergenceGuard
from gemma_tf_distill.training.loop import Run, fit
from gemma_tf_distill.xla.optimizer import XLAOptimizer

ROLL_BACK = DivergenceConfig(action="roll_back", retries=2, rate_factor=0.25)
TRAINING = TrainingConfig(batch_size=4, learning_rate=4e-3, warmup_fraction=0.0, checkpoint_every=2, log_every=1, divergence=ROLL_BACK)


def train(student, scored, folder, bad_openings, xla=None):
    """Of the fourth batch the mask is no number, whenever batches are opened for one of the first `bad_openings` times."""
    opened = []

    def batches(skip):
        opened.append(skip)
        bad = len(opened) <= bad_openings
        found = training_batches(scored.files, window=scored.window, top_k=scored.top_k, batch_size=4, seed=5)

        def masked(index, batch):
            value = tf.where(bad & (index == 3), math.nan, 1.0)
            return {**batch, "mask": tf.fill([4, scored.window - 1], value)}

        return found.enumerate().map(masked).skip(skip)

    fit(
        student,
        Run(name="student", learn_from_teacher=True, checkpoints=str(folder / "checkpoints"), tensorboard=str(folder / "events")),
        batches,
        training=TRAINING,
        distillation=DistillationConfig(top_k=scored.top_k),
        total_steps=6,
        xla=xla,
    )
    return opened


def test_going_back_lowers_the_learning_rate_and_ends_well(scored_windows, make_student, tmp_path, monkeypatch):
    monkeypatch.setenv(progress.ENVIRONMENT_VARIABLE, str(tmp_path / "progress.jsonl"))
    student = make_student()
    # The first opening is only a look at how texts begin.
    assert train(student, scored_windows, tmp_path, bad_openings=2) == [0, 0, 2]
    assert all(np.isfinite(weight).all() for weight in student.backbone.get_weights())
    told = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    (message,) = [event["message"] for event in told if event["event"] == "warning" and "going back" in event["message"]]
    assert "is nan at step 4 of 6" in message and message.endswith("going back to the last checkpoint, with 0.25 times the learning rate")
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"tensors": 0})
    events.Reload()
    rates = [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors("train/learning_rate")]
    assert [step for step, _ in rates] == [1, 2, 3, 4, 3, 4, 5, 6]
    assert rates[4][1] == pytest.approx(rates[2][1] / 4)


def test_what_goes_wrong_every_time_ends_the_run(scored_windows, make_student, tmp_path):
    with pytest.raises(DivergenceError, match=r"the loss of the student is nan at step 4 of 6: lower training\.learning_rate"):
        train(make_student(), scored_windows, tmp_path, bad_openings=9, xla=XLAOptimizer(XlaConfig(jit_scope="none")))


def test_a_jump_is_told_by_the_mean_of_the_looks_before():
    guard = DivergenceGuard("student", 100, 300, section="training", learning_rate=0.1, spike=2.0)

    def look(step, loss):
        return guard.diverged(step, {"loss": loss, "gradient_norm": 1.0})

    # Three looks make a mean.
    assert [look(step, loss) for step, loss in enumerate((4.0, 9.0, 2.0))] == [None, None, None]
    assert look(3, 9.9) is None
    error = look(4, 12.5)
    assert str(error) == (
        "the loss of the student jumped from 6.225 to 12.5 at step 4 of 100: lower training.learning_rate (now 0.1) or raise "
        "training.warmup_fraction"
    )
    guard.forget()
    assert look(4, 12.5) is None
