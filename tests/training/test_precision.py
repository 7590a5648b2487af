"""Mixed precision keeps float32 weights and computes in bfloat16."""

import numpy as np

from gemma_tf_distill.config import DistillationConfig, TrainingConfig
from gemma_tf_distill.training.optimizers import make_optimizer
from gemma_tf_distill.training.precision import with_precision
from gemma_tf_distill.training.trainer import DistillationTrainer
from tests.training.test_trainer import first_batch


def test_same_weights_in_bfloat16_compute(scored_windows, make_student):
    student = make_student()
    mixed = with_precision(student, "mixed_bfloat16")
    assert with_precision(student, "float32") is student
    assert {w.dtype for w in mixed.backbone.weights} == {"float32"}
    assert mixed.backbone.compute_dtype == "bfloat16"
    for got, want in zip(mixed.backbone.get_weights(), student.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)
    back = with_precision(mixed, "float32")
    np.testing.assert_allclose(back.logits([[2, 5, 9]]), student.logits([[2, 5, 9]]), rtol=1e-6)


def test_a_mixed_step_is_close_to_a_float32_step(scored_windows, make_student):
    losses = []
    for precision in ("float32", "mixed_bfloat16"):
        student = with_precision(make_student(), precision)
        training = TrainingConfig(batch_size=4, precision=precision)
        optimizer = make_optimizer(training, 10, student.backbone.trainable_variables)
        trainer = DistillationTrainer(training, DistillationConfig(top_k=scored_windows.top_k))
        losses.append([float(trainer.train_step(first_batch(scored_windows), None, student, optimizer)["loss"]) for _ in range(3)])
    # bfloat16 has 8 bits of mantissa.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)
    assert losses[0] != losses[1]
