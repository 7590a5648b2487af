"""Means, rates and utilisation of steps whose scalars are given, by a clock that only the test moves."""

import math

import pytest
import tensorflow as tf

from gemma_tf_distill.monitoring.distillation_metrics import DistillationMetrics, Work


class Clock:
    def __init__(self):
        self.now = 7.0

    def __call__(self) -> float:
        return self.now


def scalars(loss, **others):
    values = {"loss": loss, "soft_loss": 2 * loss, "gradient_norm": 3.0, "gradient_norm/norms": 1.0, "tokens": 80.0, "window_tokens": 100.0}
    return {name: tf.constant(value, tf.float32) for name, value in {**values, "wrong_targets": 0.0, **others}.items()}


def test_means_are_over_the_steps_since_the_last_look():
    clock = Clock()
    metrics = DistillationMetrics(work=lambda tokens: Work(5.0 * tokens, 1000.0), clock=clock)
    metrics.update_metrics(scalars(9.0))
    first = metrics.read(1, 0.1)
    assert first["distill/loss"] == first["distill/loss_mean"] == 9.0
    # The first step compiles: it has no time.
    assert not {"train/step_seconds", "data/tokens_per_second", "hardware/mfu"} & first.keys()
    for loss in (4.0, 2.0):
        clock.now += 0.5
        metrics.update_metrics(scalars(loss))
    clock.now += 1.0
    # Two steps in one call, of which the second one had the loss 1.
    metrics.update_metrics(scalars(1.0), {name: 2 * value for name, value in scalars(1.5).items()}, steps=2)
    told = metrics.read(5, 0.2)
    assert told["distill/loss"] == 1.0 and told["distill/loss_mean"] == pytest.approx(9 / 4)
    assert told["distill/soft_loss_mean"] == pytest.approx(18 / 4)
    assert told["train/gradient_norm"] == 3.0 and told["train/gradient_norm/norms"] == 1.0 and told["train/learning_rate"] == 0.2
    assert told["train/step_seconds"] == pytest.approx(0.5) and told["data/tokens_per_second"] == pytest.approx(200.0)
    assert told["hardware/mfu"] == pytest.approx(500 / 0.5 / 1000)
    assert told["data/tokens_seen"] == 500 and told["data/counted_fraction"] == pytest.approx(0.8)
    assert not [name for name in told if name.split("/")[0] not in ("distill", "train", "data", "hardware")]


def test_steps_with_other_scalars_count_where_they_have_them():
    metrics = DistillationMetrics()
    metrics.update_metrics(scalars(4.0, hidden_loss=6.0))
    metrics.update_metrics(scalars(2.0))
    told = metrics.read(2, 0.1)
    assert told["distill/loss_mean"] == 3.0 and told["distill/hidden_loss_mean"] == 6.0 and "distill/hidden_loss" not in told


def test_a_loss_that_is_no_number_is_shown_until_training_goes_back():
    metrics = DistillationMetrics()
    for step, loss in enumerate((3.0, math.nan, 3.0), 1):
        metrics.update_metrics(scalars(loss))
        told = metrics.read(step, 0.1)
        assert math.isnan(told["distill/loss_mean"]) == math.isnan(told["distill/loss"]) == math.isnan(loss)
    assert math.isnan(told["distill/loss_slope"])
    metrics.update_metrics(scalars(math.nan))
    metrics.forget()
    metrics.update_metrics(scalars(5.0))
    assert metrics.read(4, 0.1)["distill/loss_mean"] == 5.0
