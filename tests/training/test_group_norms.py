"""Norms of gradients and updates by group: those of numpy on the weights before and after."""

import numpy as np
import pytest

from gemma_tf_distill.config import DistillationConfig, HiddenStatesConfig, TrainingConfig
from gemma_tf_distill.data.batches import training_batches
from gemma_tf_distill.training.group_norms import GROUPS, groups_of
from gemma_tf_distill.training.optimizers import make_optimizer
from gemma_tf_distill.training.trainer import DistillationTrainer


def test_groups_cover_all_that_is_trained(scored_windows, make_student, tiny_teacher):
    distillation = DistillationConfig(top_k=scored_windows.top_k, hidden_states=HiddenStatesConfig(weight=1.0))
    training = TrainingConfig(batch_size=4, accumulation_steps=2, learning_rate=1e-2, warmup_fraction=0.0)
    student = make_student()
    trainer = DistillationTrainer(training, distillation, total_steps=4, group_norms=True)
    variables = trainer.trainable_variables(tiny_teacher, student)
    groups = groups_of(student, variables)
    assert set(groups) == set(GROUPS)
    by_name = {variable.path: group for variable, group in zip(variables, groups, strict=True)}
    assert (
        by_name["decoder_block_0/attention/query_norm/scale"] == "norms" and by_name["decoder_block_1/ffw_linear/kernel"] == "feed_forward"
    )

    batch = next(
        iter(training_batches(scored_windows.files, window=scored_windows.window, top_k=scored_windows.top_k, batch_size=4, seed=5))
    )
    before = [np.array(variable) for variable in variables]
    metrics = trainer.train_step(batch, tiny_teacher, student, make_optimizer(training, 4, variables))
    moved = {group: 0.0 for group in GROUPS}
    for group, old, variable in zip(groups, before, variables, strict=True):
        moved[group] += float(np.sum(np.square(np.array(variable) - old, dtype=np.float64)))
    for group in GROUPS:
        assert moved[group] > 0 and float(metrics[f"update_norm/{group}"]) == pytest.approx(moved[group] ** 0.5, rel=1e-4)
    whole = sum(float(metrics[f"gradient_norm/{group}"]) ** 2 for group in GROUPS) ** 0.5
    assert float(metrics["gradient_norm"]) == pytest.approx(whole, rel=1e-5)
