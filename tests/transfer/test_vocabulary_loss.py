"""The chunked loss against the dense one, and the invariants that hold whatever the chunk."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.config import DistillationConfig
from gemma_tf_distill.transfer.token_losses import SoftAndHardTargets, hard_target_terms
from gemma_tf_distill.transfer.vocabulary_loss import vocabulary_loss


def make_case(seed: int, tokens: int = 13, words: int = 29, width: int = 8, k: int = 5):
    rng = np.random.default_rng(seed)
    teacher = tf.nn.log_softmax(tf.constant(rng.normal(size=(tokens, words)) * 2, tf.float32))
    log_probs, ids = tf.math.top_k(teacher, k)
    return {
        "hidden": tf.constant(rng.normal(size=(tokens, width)), tf.float32),
        "embedding": tf.constant(rng.normal(size=(words, width)), tf.float32),
        "targets": {
            "labels": tf.constant(rng.integers(0, words, tokens), tf.int32),
            "teacher_ids": ids,
            "teacher_log_probs": log_probs,
        },
        "mask": tf.constant(rng.integers(0, 2, tokens), tf.float32),
    }


def dense(case, token_loss, soft_cap=None):
    with tf.GradientTape() as tape:
        tape.watch([case["hidden"], case["embedding"]])
        logits = tf.matmul(case["hidden"], case["embedding"], transpose_b=True)
        if soft_cap:
            logits = soft_cap * tf.tanh(logits / soft_cap)
        terms = token_loss(logits, case["targets"])
        sums = {name: tf.reduce_sum(term * case["mask"]) for name, term in terms.items()}
    return sums, tape.gradient(sums["loss"], [case["hidden"], case["embedding"]])


def chunked(case, token_loss, chunk, soft_cap=None, jit=False):
    @tf.function(jit_compile=jit)
    def run():
        with tf.GradientTape() as tape:
            tape.watch([case["hidden"], case["embedding"]])
            sums = vocabulary_loss(**case, token_loss=token_loss, chunk=chunk, logit_soft_cap=soft_cap)
        return sums, tape.gradient(sums["loss"], [case["hidden"], case["embedding"]])

    return run()


LOSSES = {
    "hard": hard_target_terms,
    "soft": SoftAndHardTargets(DistillationConfig(), alpha=1.0, temperature=1.0),
    "both": SoftAndHardTargets(DistillationConfig(), alpha=0.3, temperature=2.0),
}


def check_equals_dense(loss, soft_cap=None, jit=False, case=None):
    case = make_case(0) if case is None else case
    expected, expected_gradients = dense(case, loss, soft_cap)
    sums, gradients = chunked(case, loss, 4, soft_cap, jit)
    assert sorted(sums) == sorted(expected)
    for name in expected:
        np.testing.assert_allclose(sums[name], expected[name], rtol=1e-5)
    for got, want in zip(gradients, expected_gradients, strict=True):
        # float32 sums in another order: single entries relative to the largest, the gradient as a whole to its own length.
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * float(tf.reduce_max(tf.abs(want)) + 1e-6))
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_equals_the_dense_loss(loss, soft_cap, jit):
    check_equals_dense(LOSSES[loss], soft_cap, jit)


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon", "total_variation"])
def test_equals_the_dense_loss_for_stored_targets_and_every_divergence(divergence, tail):
    config = DistillationConfig(divergence=divergence, tail=tail, beta=0.3)
    check_equals_dense(SoftAndHardTargets(config, alpha=0.7, temperature=2.0), 3.0, jit=True)


def test_equals_the_dense_loss_for_draws():
    case = make_case(0)
    shares = tf.math.log(tf.constant([0.4, 0.3, 0.1, 0.1, 0.1]))
    case["targets"]["teacher_log_probs"] = tf.broadcast_to(shares, case["targets"]["teacher_ids"].shape)
    check_equals_dense(SoftAndHardTargets(DistillationConfig(targets="sampled"), alpha=0.7, temperature=1.0), case=case)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**16), chunk=st.integers(1, 20))
def test_chunk_size_never_changes_the_result(seed, chunk):
    case = make_case(seed)
    whole, whole_gradients = chunked(case, LOSSES["both"], 13)
    sums, gradients = chunked(case, LOSSES["both"], chunk)
    for name in whole:
        np.testing.assert_allclose(sums[name], whole[name], rtol=1e-5, atol=1e-5)
    for got, want in zip(gradients, whole_gradients, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_tokens_that_do_not_count_change_nothing():
    case = make_case(1)
    sums, _ = chunked(case, LOSSES["both"], 4)
    noisy = dict(case, hidden=tf.where(case["mask"][:, None] == 0, case["hidden"] * 7 - 3, case["hidden"]))
    noisy_sums, (d_hidden, _) = chunked(noisy, LOSSES["both"], 4)
    for name in sums:
        np.testing.assert_allclose(noisy_sums[name], sums[name], rtol=1e-6)
    assert np.all(d_hidden.numpy()[case["mask"].numpy() == 0] == 0)


def test_no_token_that_counts_gives_zero_and_no_nan():
    case = make_case(2)
    case["mask"] = tf.zeros_like(case["mask"])
    sums, gradients = chunked(case, LOSSES["both"], 4)
    assert all(float(total) == 0.0 for total in sums.values())
    assert all(np.all(g.numpy() == 0) for g in gradients)
