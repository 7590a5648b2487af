"""Held-out metrics against a float64 recomputation."""

import numpy as np

from gemma_tf_distill.data.batches import evaluation_batches
from gemma_tf_distill.training.heldout import HeldoutEvaluation


def test_means_equal_a_plain_recomputation(scored_windows, make_student, tiny_teacher):
    student, tokens = make_student(), scored_windows.tokens
    batches = evaluation_batches(scored_windows.files, window=scored_windows.window, top_k=scored_windows.top_k, batch_size=5)
    metrics = HeldoutEvaluation(student)(batches)

    labels = tokens[:, 1:]
    mask = (labels != 0) & (labels != 2)

    def log_probs(model):
        logits = model.logits(tokens[:, :-1]).numpy().astype(np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def nll(scores):
        return -np.take_along_axis(scores, labels[..., None], -1)[..., 0][mask].mean()

    own, teacher = log_probs(student), log_probs(tiny_teacher)
    assert metrics.tokens == mask.sum()
    np.testing.assert_allclose(metrics.nll, nll(own), rtol=1e-5)
    np.testing.assert_allclose(metrics.teacher_nll, nll(teacher), rtol=1e-5)
    np.testing.assert_allclose(metrics.top1_agreement, (own.argmax(-1) == teacher.argmax(-1))[mask].mean(), rtol=1e-6)
    dense_kl = (np.exp(teacher) * (teacher - own)).sum(-1)[mask].mean()
    assert 0 < metrics.kl_to_teacher < dense_kl


def test_the_teacher_agrees_with_itself(scored_windows, tiny_teacher):
    batches = evaluation_batches(scored_windows.files, window=scored_windows.window, top_k=scored_windows.top_k, batch_size=8)
    metrics = HeldoutEvaluation(tiny_teacher)(batches)
    assert metrics.top1_agreement == 1.0
    # float16 targets.
    np.testing.assert_allclose(metrics.kl_to_teacher, 0.0, atol=1e-4)
    np.testing.assert_allclose(metrics.nll, metrics.teacher_nll, rtol=1e-5)
