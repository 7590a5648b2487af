"""The quantised half of training, through checkpoints: what it ends with lies on the lattice, also after it was killed."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, QuantizationConfig, TrainingConfig
from gemma_tf_distill.data.batches import evaluation_batches, training_batches
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.quantization.apply import ModelQuantization, fake_quantized
from gemma_tf_distill.quantization.layout import weight_schemes
from gemma_tf_distill.training import quantized
from gemma_tf_distill.training.heldout import HeldoutEvaluation
from gemma_tf_distill.training.loop import Run
from gemma_tf_distill.training.quantized import fit_quantized
from tests.training.test_loop import Dying, Killed

TRAINING = TrainingConfig(batch_size=4, checkpoint_every=3, layer_dropout=0.5)
CONFIG = QuantizationConfig(scheme="int4_channel", epochs=1.5, learning_rate=1e-3, freeze_fraction=0.5, targets="student")


def train(student, scored, folder, config=CONFIG, die_after=None, **changes):
    def batches(skip):
        found = training_batches(scored.files, window=scored.window, top_k=scored.top_k, batch_size=4, seed=5, skip=skip)
        return found if die_after is None else Dying(found, die_after)

    return fit_quantized(
        student,
        Run(name="quantized", learn_from_teacher=True, checkpoints=str(folder / "checkpoints"), tensorboard=str(folder / "events")),
        batches,
        evaluation_batches(scored.files, window=scored.window, top_k=scored.top_k, batch_size=4),
        training=TRAINING,
        distillation=DistillationConfig(top_k=scored.top_k),
        quantization=config,
        windows=len(scored.tokens),
        **changes,
    )


def test_no_epochs_are_plain_rounding(scored_windows, make_student, tmp_path):
    student, plain = make_student(num_layers=1), make_student(num_layers=1)
    rounded, trained = train(student, scored_windows, tmp_path, dataclasses.replace(CONFIG, epochs=0))
    np.testing.assert_allclose(trained, rounded, rtol=1e-6)
    for name, value in weights_of(fake_quantized(plain, CONFIG)).items():
        np.testing.assert_array_equal(weights_of(student)[name], value)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits_and_ends_on_the_lattice(scored_windows, make_student, tmp_path):
    whole, killed, plain = (make_student(num_layers=1) for _ in range(3))
    train(whole, scored_windows, tmp_path / "whole")
    # After a step with frozen scales, which must not be made anew.
    with pytest.raises(Killed):
        train(killed, scored_windows, tmp_path / "resumed", die_after=7)
    resumed = make_student(num_layers=1)
    train(resumed, scored_windows, tmp_path / "resumed")
    for name, value in weights_of(whole).items():
        np.testing.assert_array_equal(weights_of(resumed)[name], value)
    for name, scheme in weight_schemes(CONFIG, whole.config).items():
        np.testing.assert_array_equal(scheme.fake_quantize(tf.constant(weights_of(whole)[name])), weights_of(whole)[name])

    # The student's own probabilities are what it learned: it is nearer to what it was than plain rounding is.
    tokens = tf.constant(scored_windows.tokens[:5])

    def distance(model):
        own, other = (tf.nn.log_softmax(m.logits(tokens)) for m in (plain, model))
        return float(tf.reduce_mean(tf.reduce_sum(tf.exp(own) * (own - other), axis=-1)))

    assert distance(whole) < distance(fake_quantized(plain, CONFIG))


def test_what_is_learned_from_and_how_fast(scored_windows, make_student, tmp_path, monkeypatch):
    calls = []

    def fit(student, run, batches, **arguments):
        calls.append(arguments)
        return arguments["total_steps"]

    monkeypatch.setattr(quantized, "fit", fit)
    student, teacher = make_student(), make_student(seed=1)
    train(student, scored_windows, tmp_path)
    train(student, scored_windows, tmp_path, dataclasses.replace(CONFIG, targets="teacher", learning_rate=None), teacher=teacher)
    own, others = calls
    # 22 windows of 4 a batch, one pass and a half.
    assert own["total_steps"] == 9
    assert (own["training"].learning_rate, own["training"].layer_dropout) == (1e-3, 0.0)
    assert (own["distillation"].alpha, own["distillation"].targets) == (1.0, "dense")
    assert own["teacher"].backbone is not student.backbone
    np.testing.assert_array_equal(weights_of(own["teacher"])["embedding"], weights_of(student)["embedding"])
    assert (others["teacher"], others["training"].learning_rate) == (teacher, 2 / 3 * TRAINING.learning_rate)
    assert others["distillation"] == DistillationConfig(top_k=scored_windows.top_k)
    train(student, scored_windows, tmp_path, dataclasses.replace(CONFIG, batch_size=2))
    assert (calls[-1]["training"].batch_size, calls[-1]["total_steps"]) == (2, 17)
    with pytest.raises(ConfigError, match=r"quantization\.scheme must be given"):
        train(student, scored_windows, tmp_path, QuantizationConfig())


def test_heldout_evaluation_of_a_model_as_it_will_run(scored_windows, make_student):
    student = make_student(num_layers=1)
    batches = evaluation_batches(scored_windows.files, window=scored_windows.window, top_k=scored_windows.top_k, batch_size=4)
    config = QuantizationConfig(scheme="int4_channel", activations="none")
    simulated = HeldoutEvaluation(student, ModelQuantization(student, config))(batches)
    settled = HeldoutEvaluation(fake_quantized(student, config))(batches)
    np.testing.assert_allclose(simulated.nll, settled.nll, rtol=1e-5)
