"""Norms of gradients and updates by group: those of numpy on the weights before and after."""

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, HiddenStatesConfig, TrainingConfig
from gemma_tf_distill.data.batches import training_batches
from gemma_tf_distill.training.group_norms import GROUPS, groups_of, square_sum
from gemma_tf_distill.training.optimizers import make_optimizer
from gemma_tf_distill.training.trainer import DistillationTrainer
from gemma_tf_distill.training.update_norms import UpdateNorms


@pytest.mark.parametrize(("slots", "precision"), [("float32", 1e-4), ("bfloat16", 5e-3)])
def test_norms_are_those_of_what_is_trained(scored_windows, make_student, tiny_teacher, slots, precision):
    distillation = DistillationConfig(top_k=scored_windows.top_k, hidden_states=HiddenStatesConfig(weight=1.0))
    training = TrainingConfig(
        batch_size=4, accumulation_steps=2, learning_rate=1e-2, warmup_fraction=0.5, weight_decay=5.0, optimizer_dtype=slots
    )
    student = make_student()
    trainer = DistillationTrainer(training, distillation, total_steps=4)
    variables = trainer.trainable_variables(tiny_teacher, student)
    groups = groups_of(student, variables)
    assert set(groups) == set(GROUPS)
    by_name = {variable.path: group for variable, group in zip(variables, groups, strict=True)}
    assert (
        by_name["decoder_block_0/attention/query_norm/scale"] == "norms" and by_name["decoder_block_1/ffw_linear/kernel"] == "feed_forward"
    )

    batches = training_batches(scored_windows.files, window=scored_windows.window, top_k=scored_windows.top_k, batch_size=4, seed=5)
    optimizer = make_optimizer(training, 4, variables)
    updates = UpdateNorms(optimizer, variables, groups, tf.distribute.get_strategy())
    # The learning rate is another one in each of them, and 0 in the first.
    for step, batch in enumerate(batches.take(3)):
        before = [np.array(variable) for variable in variables]
        metrics = trainer.train_step(batch, tiny_teacher, student, optimizer)
        moved = {group: 0.0 for group in GROUPS}
        for group, old, variable in zip(groups, before, variables, strict=True):
            moved[group] += float(np.sum(np.square(np.array(variable) - old, dtype=np.float64)))
        told = updates.read()
        for group in GROUPS:
            assert (moved[group] > 0) == (step > 0)
            assert told[f"train/update_norm/{group}"] == pytest.approx(moved[group] ** 0.5, rel=precision)
        whole = sum(float(metrics[f"gradient_norm/{group}"]) ** 2 for group in GROUPS) ** 0.5
        assert float(metrics["gradient_norm"]) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("shape", [[], [1], [7], [40, 3], [3, 5000, 2]])
def test_the_sum_of_squares_of_any_shape(shape):
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    compiled = tf.function(square_sum, jit_compile=True)
    for found in (square_sum(tf.constant(values)), compiled(tf.constant(values)), square_sum(tf.constant(values, tf.bfloat16))):
        assert found.dtype == tf.float32 and float(found) == pytest.approx(np.sum(np.square(values, dtype=np.float64)), rel=1e-2)
    assert float(compiled(tf.constant(values))) == pytest.approx(np.sum(np.square(values, dtype=np.float64)), rel=1e-6)
