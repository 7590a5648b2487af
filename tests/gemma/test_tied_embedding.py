"""One gradient for both uses of a tied embedding is the sum of theirs."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.gemma.activations import embedded
from gemma_tf_distill.gemma.tied_embedding import tied_embedding


@settings(deadline=None, max_examples=30)
@given(
    ids=st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=4),
    seed=st.integers(0, 100),
    head=st.booleans(),
)
def test_the_gradient_is_that_of_separate_uses(ids, seed, head):
    random = np.random.default_rng(seed)
    table, token_ids = tf.Variable(random.normal(size=(7, 5)), dtype=tf.float32), tf.constant(ids)
    outer = tf.constant(random.normal(size=(len(ids), 3, 5)), tf.float32)

    def loss(rows, embedding):
        found = tf.reduce_sum(tf.square(rows) * outer)
        return found + tf.reduce_sum(tf.tanh(tf.matmul(outer, embedding, transpose_b=True))) if head else found

    with tf.GradientTape() as tape:
        found = loss(*tied_embedding(table, token_ids))
    gradient = tape.gradient(found, table)
    with tf.GradientTape() as tape:
        expected = loss(tf.gather(table, token_ids), tf.convert_to_tensor(table))
    np.testing.assert_allclose(found, expected)
    # Sums of at most a dozen float32 numbers of size 1 to 10, in another order.
    np.testing.assert_allclose(gradient, tf.convert_to_tensor(tape.gradient(expected, table)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_looked_up_rows_enter_as_kerashub_looks_them_up(make_gemma, dtype):
    backbone, ids = make_gemma(dtype=dtype).backbone, tf.constant([[2, 9, 300], [2, 9, 9]])
    rows, _ = tied_embedding(backbone.token_embedding.embeddings.value, ids)
    np.testing.assert_array_equal(tf.cast(embedded(backbone, ids, rows), tf.float32), tf.cast(embedded(backbone, ids), tf.float32))
