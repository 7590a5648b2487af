"""The compiled step against a dense, uncompiled reference."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import (
    AttentionConfig,
    AttentionMapsConfig,
    DistillationConfig,
    HiddenStatesConfig,
    QuantizationConfig,
    Schedule,
    TrainingConfig,
)
from gemma_tf_distill.data.batches import evaluation_batches, training_batches
from gemma_tf_distill.data.examples import model_inputs
from gemma_tf_distill.errors import ConfigError, WeightsError
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.student import trim_teacher
from gemma_tf_distill.gemma.vocabulary import trim_vocabulary
from gemma_tf_distill.quantization.apply import ModelQuantization
from gemma_tf_distill.training.layer_pairs import LayerPairs
from gemma_tf_distill.training.optimizers import make_optimizer
from gemma_tf_distill.training.trainer import DistillationTrainer

TRAINING = TrainingConfig(batch_size=4, learning_rate=1e-2, clip_norm=0.5)


def first_batch(scored):
    return next(iter(training_batches(scored.files, window=scored.window, top_k=scored.top_k, batch_size=4, seed=1)))


def reference_loss(student, batch, alpha, temperature):
    """The definition, densely and in float64 where it matters."""
    tokens = batch["tokens"].numpy()
    logits = student.logits(tokens[:, :-1]).numpy().astype(np.float64)
    log_probs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    soft_logits = logits / temperature
    softened = soft_logits - np.log(np.sum(np.exp(soft_logits), axis=-1, keepdims=True))
    labels = tokens[:, 1:]
    mask = (labels != 0) & (labels != 2)
    nll = -np.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    teacher = batch["teacher_log_probs"].numpy().astype(np.float64)
    own = np.take_along_axis(softened, batch["teacher_ids"].numpy(), axis=-1)
    tails = 1 - np.exp(teacher).sum(-1), 1 - np.exp(own).sum(-1)
    kl = np.sum(np.exp(teacher) * (teacher - own), -1) + tails[0] * np.log(tails[0] / tails[1])
    return sum((1 - alpha) * nll[mask] + alpha * temperature**2 * kl[mask]) / mask.sum()


@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.5, 2.0)])
def test_loss_is_the_definition(scored_windows, make_student, alpha, temperature):
    student, batch = make_student(), first_batch(scored_windows)
    expected = reference_loss(student, batch, alpha, temperature)
    distillation = DistillationConfig(alpha=alpha, temperature=temperature, top_k=scored_windows.top_k)
    trainer = DistillationTrainer(TRAINING, distillation)
    metrics = trainer.train_step(batch, None, student, make_optimizer(TRAINING, 10, student.backbone.trainable_variables))
    # float32 logits of size 1 over 420 words.
    np.testing.assert_allclose(metrics["loss"], expected, rtol=2e-5)


def test_update_is_that_of_an_uncompiled_dense_step(scored_windows, make_student):
    batch, distillation = first_batch(scored_windows), DistillationConfig(alpha=0.0, top_k=scored_windows.top_k)
    compiled, plain = make_student(), make_student()
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(compiled.backbone.trainable_variables)
    metrics = DistillationTrainer(TRAINING, distillation).train_step(batch, None, compiled, optimizer)

    variables = [v.value for v in plain.backbone.trainable_variables]
    labels = batch["tokens"][:, 1:]
    mask = tf.cast((labels != 0) & (labels != 2), tf.float32)
    with tf.GradientTape() as tape:
        nll = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, plain.logits(batch["tokens"][:, :-1]))
        loss = tf.reduce_sum(nll * mask) / tf.reduce_sum(mask)
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
    norm = tf.linalg.global_norm(gradients)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)
    assert norm > TRAINING.clip_norm
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.assign_sub(0.1 * gradient * TRAINING.clip_norm / norm)
    for got, want in zip(compiled.backbone.get_weights(), plain.backbone.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_live_teacher_gives_the_loss_of_its_whole_distribution(scored_windows, make_student, tiny_teacher):
    tokens = first_batch(scored_windows)["tokens"]
    distillation = DistillationConfig(targets="dense", alpha=0.7, temperature=2.0)
    student = make_student()
    log_probs = [tf.nn.log_softmax(model.logits(tokens[:, :-1]) / 2.0).numpy().astype(np.float64) for model in (tiny_teacher, student)]
    labels = tokens.numpy()[:, 1:]
    mask = (labels != 0) & (labels != 2)
    kl = (np.exp(log_probs[0]) * (log_probs[0] - log_probs[1])).sum(-1)[mask].mean()
    optimizer = make_optimizer(TRAINING, 10, student.backbone.trainable_variables)
    metrics = DistillationTrainer(TRAINING, distillation).train_step({"tokens": tokens}, tiny_teacher, student, optimizer)
    np.testing.assert_allclose(metrics["soft_loss"], kl, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], 0.7 * 4 * kl + 0.3 * metrics["hard_loss"], rtol=1e-4)


def test_what_needs_a_live_teacher_says_so(scored_windows, make_student):
    batch, student = first_batch(scored_windows), make_student()
    optimizer = keras.optimizers.SGD(0.1)
    for changes in (
        {"targets": "dense"},
        {"hidden_states": HiddenStatesConfig(weight=1.0)},
        {"attention_maps": AttentionMapsConfig(weight=1.0)},
    ):
        with pytest.raises(ConfigError, match="give train_step a teacher_model"):
            DistillationTrainer(TRAINING, DistillationConfig(**changes)).train_step(batch, None, student, optimizer)
    with pytest.raises(ConfigError, match="no stored targets"):
        DistillationTrainer(TRAINING, DistillationConfig()).train_step({"tokens": batch["tokens"]}, None, student, optimizer)


def test_a_teacher_over_another_vocabulary_is_refused(scored_windows, make_student, tiny_teacher):
    tokens, student = first_batch(scored_windows)["tokens"], make_student()
    other = trim_teacher(tiny_teacher, trim_vocabulary(tiny_teacher.tokenizer, {300: 1, 301: 1}))
    trainer = DistillationTrainer(TRAINING, DistillationConfig(targets="dense"))
    with pytest.raises(WeightsError, match="load the teacher over the student's vocabulary"):
        trainer.train_step({"tokens": tokens}, other, student, keras.optimizers.SGD(0.1))


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [False, True])
def test_attention_in_blocks_trains_as_kerashub_s(make_student, make_gemma, quantized):
    tokens = tf.constant(np.random.default_rng(0).integers(4, 300, (4, 28)), tf.int32)
    distillation = DistillationConfig(targets="dense", attention_maps=AttentionMapsConfig(weight=0.25, mapping="last"))
    training = TrainingConfig(batch_size=4, accumulation_steps=2)
    weights, metrics = [], []
    for attention in (EfficientAttention(AttentionConfig(use_flash_attention=True, block_size=8)), None):
        student = make_student(num_layers=1)
        before = student.backbone.get_weights()
        quantization = ModelQuantization(student, QuantizationConfig(scheme="int8_channel", activations="none")) if quantized else None
        trainer = DistillationTrainer(training, distillation, total_steps=1, quantization=quantization, attention=attention)
        step = trainer.train_step({"tokens": tokens}, make_gemma(), student, keras.optimizers.SGD(0.1))
        metrics.append({name: float(value) for name, value in step.items()})
        weights.append([after - first for after, first in zip(student.backbone.get_weights(), before, strict=True)])
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4)
    for found, expected in zip(*weights, strict=True):
        # Float32 in another order, and weights that moved by a small part of themselves.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


EVERYTHING = DistillationConfig(
    alpha=Schedule(start=1.0, end=0.0, shape="cosine"),
    hidden_states=HiddenStatesConfig(weight=0.5, dropout_rate=0.1),
    attention_maps=AttentionMapsConfig(weight=0.25, mapping="adaptive"),
    top_k=6,
)


def test_every_objective_at_once(scored_windows, make_student, tiny_teacher):
    batch = first_batch(scored_windows)
    student = make_student(hidden_dim=8)
    pairs = LayerPairs.of(EVERYTHING, tiny_teacher, student, seed=0, calibration=model_inputs(batch["tokens"]))
    trainer = DistillationTrainer(TrainingConfig(batch_size=4, layer_dropout=0.2), EVERYTHING, total_steps=5, pairs=pairs)
    variables = trainer.trainable_variables(tiny_teacher, student)
    optimizer = make_optimizer(TrainingConfig(learning_rate=1e-2), 5, variables)
    steps = [{name: float(value) for name, value in trainer.train_step(batch, tiny_teacher, student, optimizer).items()} for _ in range(5)]
    assert [round(step["alpha"], 4) for step in steps] == [1.0, 0.8536, 0.5, 0.1464, 0.0]
    for step in steps:
        parts = step["alpha"] * step["soft_loss"] + (1 - step["alpha"]) * step["hard_loss"]
        parts += 0.5 * step["hidden_states_loss"] + 0.25 * step["attention_maps_loss"]
        np.testing.assert_allclose(step["loss"], parts, rtol=1e-5)
    assert steps[-1]["hidden_states_loss"] < steps[0]["hidden_states_loss"]
    assert len(variables) == len(student.backbone.trainable_variables) + student.backbone.num_layers


def test_a_schedule_needs_the_length_of_training():
    with pytest.raises(ConfigError, match="total_steps"):
        DistillationTrainer(TRAINING, EVERYTHING)
    with pytest.raises(ConfigError, match="total_steps"):
        DistillationTrainer(TrainingConfig(layer_dropout=0.1), DistillationConfig())


def test_control_does_not_see_the_teacher(scored_windows, make_student):
    batch = first_batch(scored_windows)
    distillation = DistillationConfig(top_k=scored_windows.top_k)
    results = []
    for other_targets in (batch["teacher_log_probs"], batch["teacher_log_probs"] * 0.5 - 1):
        student = make_student()
        optimizer = make_optimizer(TRAINING, 10, student.backbone.trainable_variables)
        trainer = DistillationTrainer(TRAINING, distillation, learn_from_teacher=False)
        metrics = trainer.train_step(batch | {"teacher_log_probs": other_targets}, None, student, optimizer)
        assert "soft_loss" not in metrics
        results.append(float(metrics["loss"]))
    assert results[0] == results[1]


def test_batch_without_a_token_that_counts_changes_no_matrix(scored_windows, make_student):
    batch = first_batch(scored_windows)
    batch = batch | {"tokens": tf.where(tf.range(scored_windows.window) == 0, batch["tokens"], 0)}
    student = make_student()
    before = student.backbone.get_weights()
    optimizer = make_optimizer(TrainingConfig(weight_decay=0.0), 10, student.backbone.trainable_variables)
    metrics = DistillationTrainer(TRAINING, DistillationConfig(top_k=6)).train_step(batch, None, student, optimizer)
    assert float(metrics["loss"]) == 0.0 and float(metrics["tokens"]) == 0.0
    for got, want in zip(student.backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_padding_never_changes_the_loss(scored_windows, make_student):
    batch = next(iter(evaluation_batches(scored_windows.files, window=scored_windows.window, top_k=scored_windows.top_k, batch_size=4)))
    longer = {name: tf.pad(value, [[0, 2]] + [[0, 0]] * (value.shape.rank - 1)) for name, value in batch.items()}
    losses = []
    for windows in (batch, longer):
        student = make_student()
        optimizer = make_optimizer(TRAINING, 10, student.backbone.trainable_variables)
        trainer = DistillationTrainer(TRAINING, DistillationConfig(top_k=scored_windows.top_k))
        losses.append(float(trainer.train_step(windows, None, student, optimizer)["loss"]))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_learning_rate_warms_up_and_decays(make_student):
    config = TrainingConfig(learning_rate=1e-3, warmup_fraction=0.2)
    optimizer = make_optimizer(config, 50, make_student().backbone.trainable_variables)
    rates = [float(optimizer._learning_rate(step)) for step in range(51)]
    assert rates[0] == 0.0 and np.argmax(rates) == 10
    np.testing.assert_allclose([rates[10], rates[50]], [1e-3, 1e-4], rtol=1e-5)
