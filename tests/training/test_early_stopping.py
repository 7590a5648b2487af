"""Which student is kept, and when training ends, by held-out figures that the test makes up."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gemma_tf_distill.config import DistillationConfig, EarlyStoppingConfig, TrainingConfig, XlaConfig
from gemma_tf_distill.data.batches import training_batches
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.monitoring import progress
from gemma_tf_distill.training.heldout import HeldoutMetrics
from gemma_tf_distill.training.loop import Run, fit
from gemma_tf_distill.xla.optimizer import XLAOptimizer
from tests.training.test_loop import Killed

EARLY = EarlyStoppingConfig(metric="kl", every=2, patience=2, min_change=0.1)
TRAINING = TrainingConfig(batch_size=4, learning_rate=5e-3, checkpoint_every=3, log_every=4, early_stopping=EARLY)


class Judge:
    """Gives figures in turn, and remembers the students it gave them to."""

    def __init__(self, student, kls, dies_at=None):
        self._student, self._kls, self._dies_at = student, kls, dies_at
        self.seen = []

    def __call__(self):
        self.seen.append(self._student.backbone.get_weights())
        if len(self.seen) == self._dies_at:
            raise Killed
        kl = self._kls[len(self.seen) - 1]
        return HeldoutMetrics(nll=9 - kl, kl_to_teacher=kl, top1_agreement=0.5, teacher_nll=2.0, tokens=10)


def train(student, scored, folder, evaluate, *, learn=True, total_steps=12, training=TRAINING):
    folders = {"checkpoints": str(folder / "checkpoints"), "tensorboard": str(folder / "events")}
    fit(
        student,
        Run(name="student", learn_from_teacher=learn, control_nll=12.0 if learn else None, **folders),
        lambda skip: training_batches(scored.files, window=scored.window, top_k=scored.top_k, batch_size=4, seed=5, skip=skip),
        training=training,
        distillation=DistillationConfig(top_k=scored.top_k),
        total_steps=total_steps,
        xla=XLAOptimizer(XlaConfig(jit_scope="none")),
        evaluate=evaluate,
    )


def assert_same(student, weights):
    for got, want in zip(student.backbone.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_best_is_kept_also_by_a_run_that_was_killed(scored_windows, make_student, tmp_path, monkeypatch):
    monkeypatch.setenv(progress.ENVIRONMENT_VARIABLE, str(tmp_path / "progress.jsonl"))
    student = make_student()
    # At steps 2, 4, 6, 8: the third is lower than the second, by too little.
    judge = Judge(student, [2.0, 1.5, 1.45, 1.6, 0.1])
    train(student, scored_windows, tmp_path / "whole", judge)
    assert len(judge.seen) == 4
    assert_same(student, judge.seen[1])
    events = EventAccumulator(str(tmp_path / "whole" / "events"), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("distill/heldout_kl")] == [2, 4, 6, 8]
    # Of the way from the control's 12 to the teacher's 2.
    closed = [tf.make_ndarray(event.tensor_proto) for event in events.Tensors("distill/gap_closed")]
    np.testing.assert_allclose(closed, [0.5, 0.45, 0.445, 0.46], rtol=1e-6)
    told = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    (message,) = [event["message"] for event in told if event["event"] == "warning" and "held-out" in event["message"]]
    assert message == (
        "student: training ended at step 8 of 12, the held-out kl was best at step 4 (1.5000 nats a token), and that student is kept"
    )

    resumed = make_student()
    with pytest.raises(Killed):
        train(resumed, scored_windows, tmp_path / "resumed", Judge(resumed, [2.0, 1.5, 1.45], dies_at=4))
    resumed = make_student(seed=9)
    # From the checkpoint of step 6, which knows of the look after it.
    later = Judge(resumed, [1.6, 0.1])
    train(resumed, scored_windows, tmp_path / "resumed", later)
    assert len(later.seen) == 1
    assert_same(resumed, judge.seen[1])


def test_a_control_is_judged_by_its_nll_and_the_last_step_is_looked_at(scored_windows, make_student, tmp_path):
    student = make_student()
    # Its nll falls while the divergence rises.
    judge = Judge(student, [1.0, 2.0, 3.0])
    train(student, scored_windows, tmp_path, judge, learn=False, total_steps=5)
    assert len(judge.seen) == 3
    assert_same(student, judge.seen[2])


def test_nothing_to_look_at_is_told_first(scored_windows, make_student, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.early_stopping is set, and fit has nothing to look at"):
        train(make_student(), scored_windows, tmp_path, None)
