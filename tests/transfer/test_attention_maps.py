"""The cosine between attention maps of two layers, and how alike all layers of two models look."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.gemma.taps import forward, visible_keys
from gemma_tf_distill.transfer.attention_maps import attention_map_loss, attention_similarity

BATCH, LENGTH = 2, 9
CAUSAL = np.tril(np.ones((LENGTH, LENGTH), bool))
ONES = np.ones((BATCH, LENGTH), np.float32)


def attention(seed: int, heads: int, seen: np.ndarray = CAUSAL) -> np.ndarray:
    """Random maps float32 [B, heads, N, N] whose rows sum to 1 over the keys that are seen, and are 0 elsewhere."""
    scores = np.random.default_rng(seed).normal(size=(BATCH, heads, LENGTH, LENGTH)) * 2
    weights = np.where(seen, np.exp(scores), 0)
    return (weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30)).astype(np.float32)


def window(size: int) -> np.ndarray:
    return CAUSAL & ~np.tril(CAUSAL, -size)


def reference(student: np.ndarray, teacher: np.ndarray, visible: np.ndarray = CAUSAL) -> np.ndarray:
    """One minus the cosine in float64, mean over heads, of maps with equally many heads."""
    student, teacher = (np.float64(maps) * visible for maps in (student, teacher))
    cosine = (student * teacher).sum(-1) / (np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1))
    return (1 - cosine).mean(1)


@settings(max_examples=25)
@given(student=st.integers(0, 999), teacher=st.integers(1000, 1999), heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (2, 4), (3, 4)]))
def test_is_between_zero_and_one_and_zero_at_equality(student, teacher, heads):
    mine, theirs = attention(student, heads[0]), attention(teacher, heads[1])
    loss = attention_map_loss(tf.constant(mine), tf.constant(theirs), tf.constant(ONES)).numpy()
    assert loss.dtype == np.float32 and loss.shape == (BATCH, LENGTH)
    assert np.all((loss >= 0) & (loss <= 1 + 1e-6))
    np.testing.assert_allclose(loss[:, 0], 0.0, atol=1e-6)  # The first query sees itself only.
    assert np.all(loss[:, 2:] > 0)
    np.testing.assert_allclose(attention_map_loss(tf.constant(mine), tf.constant(mine), tf.constant(ONES)), 0.0, atol=1e-7)


def test_is_one_minus_the_cosine():
    mine, theirs = attention(1, 4), attention(2, 4)
    loss = attention_map_loss(tf.constant(mine), tf.constant(theirs), tf.constant(ONES), tf.constant(CAUSAL))
    np.testing.assert_allclose(loss, reference(mine, theirs), atol=1e-6)


def test_is_one_where_both_look_at_different_keys():
    mine, theirs = np.eye(3, dtype=np.float32)[None, None], np.roll(np.eye(3, dtype=np.float32), 1, axis=0)[None, None]
    np.testing.assert_allclose(attention_map_loss(tf.constant(mine), tf.constant(theirs), tf.ones([1, 3])), 1.0, atol=1e-6)


def test_more_heads_are_averaged_in_groups_where_they_divide_and_over_all_where_not():
    mine, theirs = attention(1, 2), attention(2, 4)
    grouped = np.stack([theirs[:, :2].mean(1), theirs[:, 2:].mean(1)], axis=1)
    for a, b in ((mine, theirs), (theirs, mine)):
        np.testing.assert_allclose(
            attention_map_loss(tf.constant(a), tf.constant(b), tf.constant(ONES)), reference(mine, grouped), atol=1e-6
        )
    mine = attention(3, 3)
    expected = reference(mine.mean(1, keepdims=True), theirs.mean(1, keepdims=True))
    np.testing.assert_allclose(attention_map_loss(tf.constant(mine), tf.constant(theirs), tf.constant(ONES)), expected, atol=1e-6)


def test_keys_that_one_side_cannot_see_are_left_out():
    mine, theirs = attention(1, 2, window(3)), attention(2, 2)
    visible = window(3)
    loss = attention_map_loss(tf.constant(mine), tf.constant(theirs), tf.constant(ONES), tf.constant(visible)).numpy()
    np.testing.assert_allclose(loss, reference(mine, theirs, visible), atol=1e-6)
    # What the teacher's last query gives the first keys no longer matters, as long as what is left keeps its proportions.
    moved = theirs.copy()
    moved[..., -1, 0] += 3.0
    again = attention_map_loss(tf.constant(mine), tf.constant(moved), tf.constant(ONES), tf.constant(np.stack([visible, visible])))
    np.testing.assert_array_equal(again, loss)
    assert np.all(loss[:, 4:] < attention_map_loss(tf.constant(mine), tf.constant(theirs), tf.constant(ONES))[:, 4:])


@settings(max_examples=20)
@given(seed=st.integers(0, 999), length=st.integers(0, LENGTH))
def test_padding_never_changes_it(seed, length):
    mask = ONES.copy()
    mask[0, length:] = 0
    visible = CAUSAL & (mask != 0)[:, None, :]
    mine, theirs = attention(seed, 2), attention(seed + 1, 2)
    loss = attention_map_loss(tf.constant(mine), tf.constant(theirs), tf.constant(mask), tf.constant(visible)).numpy()
    noise = np.random.default_rng(seed).uniform(size=mine.shape)
    padding = np.broadcast_to(((mask[:, :, None] == 0) | (mask[:, None, :] == 0))[:, None], mine.shape)
    changed = np.where(padding, noise, mine).astype(np.float32)
    again = attention_map_loss(tf.constant(changed), tf.constant(theirs), tf.constant(mask), tf.constant(visible)).numpy()
    np.testing.assert_array_equal(again, loss)
    assert np.all(loss[0, length:] == 0)


def test_rows_that_see_nothing_give_zero_and_finite_gradients():
    visible = CAUSAL.copy()
    visible[4] = False
    mine, theirs = tf.Variable(attention(1, 2, visible)), tf.Variable(attention(2, 2, visible))
    with tf.GradientTape() as tape:
        loss = attention_map_loss(mine, theirs, tf.constant(ONES), tf.constant(visible))
    to_student, to_teacher = tape.gradient(loss, [mine, theirs])
    assert np.all(loss.numpy()[:, 4] == 0)
    assert np.all(np.isfinite(to_student)) and np.any(to_student.numpy() != 0)
    assert np.all(to_student.numpy()[:, :, 4] == 0)
    assert to_teacher is None


def test_is_the_same_under_xla():
    arguments = [tf.constant(value) for value in (attention(1, 4), attention(2, 2), ONES, window(3))]
    compiled = tf.function(attention_map_loss, jit_compile=True)(*arguments)
    np.testing.assert_allclose(compiled, attention_map_loss(*arguments), atol=1e-6)


@pytest.fixture(scope="module")
def small(tiny_teacher):
    """A random student of two layers with three heads and a window of 8, and padded windows of 20 tokens."""
    config = tiny_teacher.backbone.get_config() | {"num_layers": 2, "num_query_heads": 3, "num_key_value_heads": 1}
    backbone = keras_hub.models.Gemma3Backbone.from_config(config | {"sliding_window_size": 8, "name": "student"})
    random = np.random.default_rng(5)
    for weight in backbone.weights:
        weight.assign(random.normal(scale=0.2, size=weight.shape).astype("float32"))
    ids = random.integers(4, 400, (2, 20))
    ids[1, 15:] = 0
    return backbone, {"token_ids": tf.constant(ids, tf.int32), "padding_mask": tf.constant(ids != 0, tf.int32)}


def test_models_of_other_heads_and_windows_are_compared_and_trained(tiny_teacher, small):
    student, inputs = small
    mask = tf.cast(inputs["padding_mask"], tf.float32)
    visible = tf.logical_and(*(visible_keys(model, 1, inputs["padding_mask"]) for model in (student, tiny_teacher.backbone)))
    theirs = forward(tiny_teacher.backbone, inputs, attention_maps=(1,), last=1).attention_maps[1]
    query = student.transformer_layers[1].attention.query_dense.kernel.value
    with tf.GradientTape() as tape:
        mine = forward(student, inputs, attention_maps=(1,), last=1).attention_maps[1]
        loss = attention_map_loss(mine, theirs, mask, visible)
    assert np.all(loss.numpy()[1, 15:] == 0) and np.all(loss.numpy()[0, 1:] > 0)
    gradient = tape.gradient(loss, query).numpy()
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


def test_similarity_is_the_mean_cosine_of_head_averages_over_tokens(tiny_teacher, small):
    student, inputs = small
    similarity = attention_similarity(tiny_teacher.backbone, student, inputs)
    assert similarity.shape == (2, 7)
    mine = forward(student, inputs, attention_maps=(1,), last=1).attention_maps[1]
    theirs = forward(tiny_teacher.backbone, inputs, attention_maps=(5,), last=5).attention_maps[5]
    distances = reference(*(np.asarray(maps).mean(1, keepdims=True) for maps in (mine, theirs)), np.ones([20, 20], bool))
    counts = inputs["padding_mask"].numpy()
    assert similarity[1, 5] == pytest.approx(1 - (distances * counts).sum() / counts.sum(), abs=1e-5)


def test_a_model_is_most_like_itself(tiny_teacher, small):
    similarity = attention_similarity(tiny_teacher.backbone, tiny_teacher.backbone, small[1])
    np.testing.assert_allclose(np.diag(similarity), 1.0, atol=1e-5)
    np.testing.assert_allclose(similarity, similarity.T, atol=1e-5)
    assert np.all(similarity - 2 * np.eye(7) < 0.9999)
