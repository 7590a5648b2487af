"""A batch in parts gives the update of the whole batch: in one process, under XLA, and over replicas."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, TrainingConfig
from gemma_tf_distill.data.batches import training_batches
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.training.accumulation import accumulated_gradients, gradient_accumulation_step
from gemma_tf_distill.training.batch_loss import batch_loss
from gemma_tf_distill.training.trainer import DistillationTrainer


def uneven_batch(scored, windows=4):
    """Windows with very different numbers of tokens that count."""
    batch = next(iter(training_batches(scored.files, window=scored.window, top_k=scored.top_k, batch_size=windows, seed=1)))
    lengths = tf.constant([12, 3, 7, 1, 12, 5, 2, 9][:windows])[:, None]
    return {**batch, "tokens": tf.where(tf.range(scored.window)[None] < lengths, batch["tokens"], 0)}


def gradients_in_parts(student, batch, parts, jit=False):
    values = [variable.value for variable in student.backbone.trainable_variables]
    counted = tf.reduce_sum(tf.cast(batch["tokens"][:, 1:] > 2, tf.float32))

    def loss_of(part, index):
        return batch_loss(part, None, student, counted, distillation=DistillationConfig(top_k=6))

    return tf.function(lambda: accumulated_gradients(loss_of, batch, values, parts), jit_compile=jit)()


def test_the_number_of_parts_never_changes_the_gradient(scored_windows, make_student):
    student, batch = make_student(), uneven_batch(scored_windows)
    whole_terms, whole = gradients_in_parts(student, batch, 1)
    for parts, jit in ((2, False), (4, True)):
        terms, gradients = gradients_in_parts(student, batch, parts, jit)
        for name, value in whole_terms.items():
            np.testing.assert_allclose(terms[name], value, rtol=1e-5)
        for got, want in zip(gradients, whole, strict=True):
            # float32 sums in another order: relative to the largest entry.
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * float(tf.reduce_max(tf.abs(want))))
    # The mean of the parts' means, the usual mistake, is another number here: the test can tell.
    halves = [
        gradients_in_parts(student, {name: value[half] for name, value in batch.items()}, 1)[0] for half in (slice(0, 2), slice(2, 4))
    ]
    assert abs(np.mean([float(half["loss"]) for half in halves]) - float(whole_terms["loss"])) > 1e-3


def test_the_trainer_accumulates(scored_windows, make_student):
    batch, results = uneven_batch(scored_windows), []
    for parts in (1, 2):
        student, optimizer = make_student(), keras.optimizers.SGD(0.1)
        training = TrainingConfig(batch_size=4, accumulation_steps=parts, clip_norm=0.5)
        trainer = DistillationTrainer(training, DistillationConfig(top_k=6))
        metrics = trainer.train_step(batch, None, student, optimizer)
        results.append((metrics, student.backbone.get_weights()))
    (whole_metrics, whole), (metrics, weights) = results
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    for got, want in zip(weights, whole, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_parts_that_do_not_divide_the_batch_are_refused(scored_windows, make_student):
    batch, student = uneven_batch(scored_windows), make_student()
    with pytest.raises(ConfigError, match="a batch of 4 windows cannot be cut into 3 equal parts: choose a divisor of 4"):
        gradient_accumulation_step(None, student, keras.optimizers.SGD(0.1), batch, 3)
    with pytest.raises(ConfigError, match=r"training\.accumulation_steps must be a divisor of training\.batch_size \(16\), not 5"):
        TrainingConfig(accumulation_steps=5)


REPLICAS = """
    import keras, numpy as np, tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import keras_hub
    from gemma_tf_distill import gradient_accumulation_step

    def student():
        backbone = keras_hub.models.Gemma3Backbone(
            vocabulary_size=30, image_size=None, num_layers=1, num_query_heads=2, num_key_value_heads=1, hidden_dim=8,
            intermediate_dim=8, head_dim=4, use_post_ffw_norm=True, use_post_attention_norm=True,
        )
        random = np.random.default_rng(1)
        for weight, value in zip(backbone.weights, values or [random.normal(size=w.shape) * 0.3 for w in backbone.weights]):
            weight.assign(value)
        return type("Model", (), {"backbone": backbone})

    values = None
    tokens = np.random.default_rng(0).integers(4, 30, size=(4, 6)).astype("int32")
    tokens[0, 2:] = 0  # the first replica has far fewer tokens that count
    batch = {"tokens": tf.constant(tokens), "teacher_ids": tf.ones([4, 5, 1], tf.int32), "teacher_log_probs": tf.fill([4, 5, 1], -0.1)}
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        replicated = student()
        values = [np.array(weight) for weight in replicated.backbone.weights]
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(replicated.backbone.trainable_variables)
    shares = strategy.experimental_distribute_values_from_function(
        lambda context: {n: v[2 * context.replica_id_in_sync_group :][:2] for n, v in batch.items()}
    )
    step = lambda share: gradient_accumulation_step(None, replicated, optimizer, share, 2, clip_norm=0.1)
    metrics = tf.function(lambda: strategy.run(step, args=(shares,)))()

    alone = student()
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(alone.backbone.trainable_variables)
    expected = tf.function(lambda: gradient_accumulation_step(None, alone, optimizer, batch, 1, clip_norm=0.1))()
    for name, value in expected.items():
        for local in strategy.experimental_local_results(metrics[name]):
            np.testing.assert_allclose(local, value, rtol=1e-5)
    assert float(expected["gradient_norm"]) > 0.1
    for got, want, before in zip(replicated.backbone.weights, alone.backbone.weights, values):
        np.testing.assert_allclose(np.array(got), np.array(want), atol=1e-6)
    assert any(np.abs(np.array(w) - v).max() > 1e-4 for w, v in zip(alone.backbone.weights, values))
"""


@pytest.mark.slow
def test_replicas_share_a_batch_by_its_tokens():
    # In a process of its own: devices are split before TensorFlow starts.
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(REPLICAS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
