"""How the loss is cut into chunks by default, and mixed precision within them."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from gemma_tf_distill.transfer.head import head_logits
from gemma_tf_distill.transfer.token_losses import hard_target_terms
from gemma_tf_distill.transfer.vocabulary_loss import default_chunk, vocabulary_loss


@given(tokens=st.integers(1, 100_000), words=st.integers(1, 600_000))
def test_chunks_keep_to_the_budget_and_waste_less_than_eight_tokens_each(tokens, words):
    chunk = default_chunk(tokens, words)
    assert chunk % 8 == 0
    assert 8 <= chunk <= 512
    assert chunk == 8 or chunk * words * 4 <= 192 * 2**20
    chunks = -(-tokens // chunk)
    assert chunks * chunk - tokens < 8 * chunks


@pytest.mark.parametrize(("tokens", "words", "chunk"), [(4096, 262_144, 192), (1016, 12_724, 512), (600, 1000, 304), (5, 1000, 8)])
def test_chunks_of_some_sizes(tokens, words, chunk):
    assert default_chunk(tokens, words) == chunk


@pytest.mark.parametrize("jit", [False, True])
def test_mixed_precision_multiplies_in_bfloat16_and_sums_in_float32(jit):
    random = np.random.default_rng(0)
    tokens, words, width = 20, 40, 8
    hidden = tf.cast(random.normal(size=(tokens, width)), tf.bfloat16)
    embedding = tf.constant(random.normal(size=(words, width)), tf.float32)
    labels = tf.constant(random.integers(0, words, tokens), tf.int32)

    def gradients(loss):
        with tf.GradientTape() as tape:
            tape.watch([hidden, embedding])
            value = loss()
        return value, *tape.gradient(value, [hidden, embedding])

    @tf.function(jit_compile=jit)
    def chunked():
        return gradients(
            lambda: vocabulary_loss(hidden, embedding, {"labels": labels}, tf.ones([tokens]), hard_target_terms, chunk=8)["loss"]
        )

    value, d_hidden, d_embedding = chunked()
    expected, expected_d_hidden, expected_d_embedding = gradients(
        lambda: tf.reduce_sum(hard_target_terms(head_logits(hidden, embedding), {"labels": labels})["loss"])
    )
    assert (d_hidden.dtype, d_embedding.dtype) == (tf.bfloat16, tf.float32)
    # bfloat16 has 8 bits; the compiled products may keep more of them.
    np.testing.assert_allclose(value, expected, rtol=1e-2)
    for got, want in ((d_hidden, expected_d_hidden), (d_embedding, expected_d_embedding)):
        want = tf.cast(want, tf.float32)
        np.testing.assert_allclose(tf.cast(got, tf.float32), want, atol=2e-2 * float(tf.reduce_max(tf.abs(want))))
