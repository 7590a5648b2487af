"""The functional forward pass computes what KerasHub's does, in one go or in pieces over a cache."""

import dataclasses

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.gemma import functional
from gemma_tf_distill.gemma.model import Gemma

# Two float32 implementations of seven layers that sum in another order: logits that spread by 1 differ by about 1e-5.
TOLERANCE = 1e-4
LENGTH = 50  # three times the sliding window and a bit


def random_ids(gemma: Gemma, rows: int, length: int, seed: int = 0) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(4, gemma.tokenizer.vocabulary_size, size=(rows, length)).astype("int32")
    ids[:, 0] = gemma.tokenizer.bos_id
    return ids


def functional_logits(gemma: Gemma, hidden: tf.Tensor) -> np.ndarray:
    shape, weights = functional.shape_of(gemma), functional.weights_of(gemma)
    flat = functional.logits(shape, weights, tf.reshape(hidden, [-1, shape.hidden_dim]))
    return flat.numpy().reshape(*hidden.shape[:2], shape.vocabulary_size)


def in_pieces(gemma: Gemma, ids: np.ndarray, cuts: list[int], context: int) -> np.ndarray:
    """Logits of all positions, computed over a cache in pieces that begin at 0 and at `cuts`."""
    shape, weights = functional.shape_of(gemma), functional.weights_of(gemma)
    cache, found = functional.empty_cache(shape, ids.shape[0], context), []
    for start, end in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True):
        hidden, cache = functional.hidden_states(shape, weights, ids[:, start:end], cache, slots=tf.range(start, end))
        found.append(functional_logits(gemma, hidden))
    return np.concatenate(found, axis=1)


def variant(**changes) -> Gemma:
    """A tiny random model of another configuration than `tiny_teacher`."""
    config = dict(
        vocabulary_size=64,
        image_size=None,
        num_layers=6,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=24,
        intermediate_dim=40,
        head_dim=8,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        use_sliding_window_attention=True,
        sliding_window_size=16,
        dtype="float32",
    )
    backbone = keras_hub.models.Gemma3Backbone(**config | changes)
    random = np.random.default_rng(3)
    for weight in backbone.weights:
        weight.assign(random.normal(scale=0.2, size=weight.shape).astype("float32"))

    @dataclasses.dataclass
    class Sizes:
        vocabulary_size: int = 64
        pad_id: int = 0
        bos_id: int = 2

    return Gemma(backbone, Sizes())


def test_whole_windows_equal_kerashub(tiny_teacher):
    ids = random_ids(tiny_teacher, 3, LENGTH)
    shape, weights = functional.shape_of(tiny_teacher), functional.weights_of(tiny_teacher)
    hidden, _ = functional.hidden_states(shape, weights, ids)
    expected = tiny_teacher.logits(ids).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(functional_logits(tiny_teacher, hidden), expected, atol=TOLERANCE)


def test_padding_on_the_right_changes_nothing_before_it(tiny_teacher):
    ids = random_ids(tiny_teacher, 3, LENGTH)
    lengths = [LENGTH, 31, 7]
    for row, length in enumerate(lengths):
        ids[row, length:] = 0
    shape, weights = functional.shape_of(tiny_teacher), functional.weights_of(tiny_teacher)
    hidden, _ = functional.hidden_states(shape, weights, ids)
    found, expected = functional_logits(tiny_teacher, hidden), tiny_teacher.logits(ids).numpy()
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, :length], expected[row, :length], atol=TOLERANCE)


def test_rows_padded_on_the_left_equal_the_rows_alone(tiny_teacher):
    lengths, context = [LENGTH, 31, 7], LENGTH + 9
    ids = random_ids(tiny_teacher, 3, LENGTH)
    padded = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        padded[row, LENGTH - length :] = ids[row, :length]
    shape, weights = functional.shape_of(tiny_teacher), functional.weights_of(tiny_teacher)
    hidden, _ = functional.hidden_states(
        shape, weights, padded, functional.empty_cache(shape, 3, context), left_padding=tf.constant([LENGTH - n for n in lengths])
    )
    found = functional_logits(tiny_teacher, hidden)
    assert np.isfinite(found).all()
    for row, length in enumerate(lengths):
        expected = tiny_teacher.logits(ids[row : row + 1, :length]).numpy()[0]
        np.testing.assert_allclose(found[row, LENGTH - length :], expected, atol=TOLERANCE)


@settings(max_examples=5, deadline=None)
@given(cuts=st.lists(st.integers(1, LENGTH - 1), max_size=4, unique=True).map(sorted))
def test_prefill_in_any_pieces_equals_the_whole(tiny_teacher, cuts):
    ids = random_ids(tiny_teacher, 2, LENGTH)
    np.testing.assert_allclose(in_pieces(tiny_teacher, ids, cuts, 64), tiny_teacher.logits(ids).numpy(), atol=TOLERANCE)


def test_token_by_token_equals_the_whole(tiny_teacher):
    ids = random_ids(tiny_teacher, 2, 24)
    np.testing.assert_allclose(in_pieces(tiny_teacher, ids, list(range(1, 24)), 24), tiny_teacher.logits(ids).numpy(), atol=TOLERANCE)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_logit_soft_cap": 2.0, "final_logit_soft_cap": 1.5},
        {"global_rope_scaling_factor": 8.0, "local_rope_scaling_factor": 2.0},
        {"use_query_key_norm": False, "use_post_ffw_norm": False, "use_post_attention_norm": False},
        {"query_head_dim_normalize": False},
        {"use_sliding_window_attention": False},
        {"num_key_value_heads": 4},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_switch_of_the_config_is_followed(changes):
    gemma = variant(**changes)
    ids = random_ids_of(64)
    shape, weights = functional.shape_of(gemma), functional.weights_of(gemma)
    hidden, _ = functional.hidden_states(shape, weights, ids)
    expected = gemma.logits(ids, np.ones_like(ids)).numpy()
    np.testing.assert_allclose(functional_logits(gemma, hidden), expected, atol=TOLERANCE)


def random_ids_of(vocabulary: int) -> np.ndarray:
    return np.random.default_rng(5).integers(4, vocabulary, size=(2, 40)).astype("int32")


def test_embedding_models_are_refused():
    with pytest.raises(WeightsError, match="use_bidirectional_attention"):
        functional.shape_of(variant(use_bidirectional_attention=True))


def test_weights_are_all_there_and_out_by_in(tiny_teacher):
    weights = functional.weights_of(tiny_teacher)
    assert sum(value.size for value in weights.values()) == tiny_teacher.parameters
    assert {value.dtype for value in weights.values()} == {np.dtype("float32")}
    assert weights["layers.6.query"].shape == (4 * 8, 32)
    assert weights["layers.6.key"].shape == (2 * 8, 32)
    assert weights["layers.6.attention_output"].shape == (32, 4 * 8)
    assert weights["layers.6.gate"].shape == (48, 32)
    assert weights["layers.6.down"].shape == (32, 48)


@pytest.mark.real_weights
def test_real_weights_whole_in_pieces_and_token_by_token(real_teacher):
    text = "Returns the mean of the values along the given axis. Raises an error if there is none."
    ids = np.array([[real_teacher.tokenizer.bos_id, *real_teacher.tokenizer.encode(text)]], dtype="int32")
    # Log-probabilities and not logits: what both agree on is the distribution; 18 layers of float32 differ by some 1e-4 nats.
    expected = tf.nn.log_softmax(real_teacher.logits(ids)).numpy()
    shape = functional.shape_of(real_teacher)
    weights = {name: tf.constant(value) for name, value in functional.weights_of(real_teacher).items()}
    assert shape.local_layers.count(False) == 3

    def log_probs(pieces: list[tuple[int, int]]) -> np.ndarray:
        cache, found = functional.empty_cache(shape, 1, 32), []
        for start, end in pieces:
            hidden, cache = functional.hidden_states(shape, weights, ids[:, start:end], cache, slots=tf.range(start, end))
            found.append(tf.nn.log_softmax(functional.logits(shape, weights, hidden[0])).numpy())
        return np.concatenate(found)[np.newaxis]

    length = ids.shape[1]
    assert 16 < length <= 32
    for pieces in ([(0, length)], [(0, 9), (9, length)], [(i, i + 1) for i in range(length)]):
        found = log_probs(pieces)
        np.testing.assert_allclose(found, expected, atol=5e-3)
        np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


@settings(max_examples=5, deadline=None)
@given(cuts=st.lists(st.integers(1, LENGTH - 1), max_size=30, unique=True).map(sorted))
def test_rings_of_local_layers_equal_whole_caches(tiny_teacher, cuts):
    ids = random_ids(tiny_teacher, 2, LENGTH)
    shape, weights = functional.shape_of(tiny_teacher), functional.weights_of(tiny_teacher)

    def states(cache: functional.Cache, operations: functional.Operations) -> np.ndarray:
        found = []
        for start, end in zip([0, *cuts], [*cuts, LENGTH], strict=True):
            hidden, cache = functional.hidden_states(
                shape,
                weights,
                ids[:, start:end],
                cache,
                slots=tf.range(start, end),
                left_padding=tf.constant([0, 5]),
                operations=operations,
            )
            found.append(hidden)
        return np.concatenate(found, axis=1)

    rings = functional.empty_cache(shape, 2, LENGTH)
    whole = tuple((tf.zeros([2, 2, LENGTH, 8]),) * 2 for _ in rings)
    found, expected = states(rings, functional.Operations()), states(whole, functional.Operations(rings=False))
    np.testing.assert_allclose(found[0], expected[0], atol=TOLERANCE)
    # The second row's first tokens are padding, and see nothing.
    np.testing.assert_allclose(found[1, 5:], expected[1, 5:], atol=TOLERANCE)


def test_local_layers_keep_their_window_only(tiny_teacher):
    shape = functional.shape_of(tiny_teacher)
    slots = [keys.shape[2] for keys, _ in functional.empty_cache(shape, 1, 100)]
    assert slots == [16, 16, 16, 16, 16, 100, 16]
    assert {keys.shape[2] for keys, _ in functional.empty_cache(shape, 1, 9)} == {9}


def test_caches_of_the_270m_at_32k_take_a_quarter_of_whole_ones_at_the_most():
    shape = functional.shape_of(variant())
    shape = dataclasses.replace(shape, local_layers=tuple(layer % 6 < 5 for layer in range(18)), sliding_window_size=512)
    slots = sum(keys.shape[2] for keys, _ in functional.empty_cache(shape, 1, 32_768))
    assert slots <= 18 * 32_768 / 4
