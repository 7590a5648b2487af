"""Width cuts: nothing changes where nothing is lost, the strongest parts stay, and activations are what the blocks compute."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import StudentConfig, WidthCut
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.activations import block_activations
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.student import build_student
from gemma_tf_distill.gemma.vocabulary import full_vocabulary
from gemma_tf_distill.gemma.width_cut import Activity, Kept, check_cut, choose, cut_width, keep_parts, measure_activity

LAYERS, CHANNELS, NEURONS, HEADS = 2, 32, 48, 4
WHOLE = Kept(np.arange(CHANNELS), np.tile(np.arange(NEURONS), (LAYERS, 1)), np.tile(np.arange(HEADS), (LAYERS, 1)))


@pytest.fixture
def model(tiny_teacher) -> Gemma:
    """The tiny teacher's first two layers, free to be changed."""
    return build_student(StudentConfig(layers=(0, 1)), tiny_teacher, full_vocabulary(tiny_teacher.tokenizer), seed=0)


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    """Eleven windows, more than are run at a time; one ends in padding."""
    ids = np.random.default_rng(1).integers(4, 400, (11, 20)).astype(np.int32)
    ids[:, 0] = 2
    ids[4, 15:] = 0
    return ids


def assign(variable, value: np.ndarray, *index) -> None:
    changed = np.array(variable)
    changed[index] = value
    variable.assign(changed)


def test_all_sizes_kept_is_the_model_to_the_bit(model, windows):
    same = cut_width(model, WidthCut(hidden_dim=CHANNELS, intermediate_dim=NEURONS, num_query_heads=HEADS), windows)
    assert same.backbone is not model.backbone
    for weight, expected in zip(same.backbone.weights, model.backbone.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    np.testing.assert_array_equal(same.logits(windows), model.logits(windows))


def test_parts_that_are_zero_are_not_missed(model, windows):
    """Norms then divide by the mean square over fewer channels, embeddings are multiplied by another root: both must be mended."""
    random = np.random.default_rng(2)
    channels = np.sort(random.choice(CHANNELS, 20, replace=False))
    neurons = np.sort(np.stack([random.choice(NEURONS, 31, replace=False) for _ in range(LAYERS)]))
    kept = Kept(channels, neurons, np.array([[0, 3], [1, 2]]))
    lost = np.setdiff1d(np.arange(CHANNELS), channels)
    assign(model.backbone.token_embedding.embeddings, 0, slice(None), lost)
    for index, layer in enumerate(model.backbone.transformer_layers):
        assign(layer.attention.output_dense.kernel, 0, ..., lost)
        assign(layer.attention.output_dense.kernel, 0, np.setdiff1d(np.arange(HEADS), kept.heads[index]))
        assign(layer.ffw_linear.kernel, 0, slice(None), lost)
        assign(layer.ffw_linear.kernel, 0, np.setdiff1d(np.arange(NEURONS), neurons[index]))
    smaller = keep_parts(model, kept, measure_activity(model, windows))
    assert smaller.backbone.hidden_dim == 20
    assert smaller.parameters < 0.6 * model.parameters
    # Logits spread by about 1; the same sums in another order, through factors that are float32 means.
    np.testing.assert_allclose(smaller.logits(windows), model.logits(windows), atol=2e-4)


def test_norms_give_outputs_as_large_as_they_were(model, windows):
    kept = Kept(np.arange(0, CHANNELS, 2), WHOLE.neurons, WHOLE.heads)
    smaller = keep_parts(model, kept, measure_activity(model, windows))
    # The first norm's input is the embedding itself, in both models the same but for a factor that the norm divides away.
    embedded = np.array(model.backbone.token_embedding.embeddings)[windows[windows != 0]]
    whole, cut = (gemma.backbone.transformer_layers[0].pre_attention_norm for gemma in (model, smaller))
    scale = 1 + np.array(whole.scale)[kept.channels]
    theirs = np.array(whole(embedded * 100))[:, kept.channels] / scale
    ours = np.array(cut(embedded[:, kept.channels] * 100)) / scale
    np.testing.assert_allclose(np.square(ours).mean(), np.square(theirs).mean(), rtol=1e-4)


def test_the_strongest_parts_stay_in_their_order(model, windows):
    channels, neurons = [3, 5, 11, 30], [[0, 7, 40], [2, 3, 47]]
    for index, layer in enumerate(model.backbone.transformer_layers):
        for name in ("pre_attention_norm", "post_attention_norm", "pre_ffw_norm", "post_ffw_norm"):
            assign(getattr(layer, name).scale, 9.0, channels)
        assign(layer.gating_ffw_2.kernel, 30 * np.array(layer.gating_ffw_2.kernel)[:, neurons[index]], slice(None), neurons[index])
        # Without a query a head looks everywhere alike, and what it gathers averages out.
        assign(layer.attention.query_dense.kernel, 0, [0, 2] if index == 0 else [1, 2])
    kept = choose(measure_activity(model, windows), WidthCut(hidden_dim=4, intermediate_dim=3, num_query_heads=2), model.config)
    np.testing.assert_array_equal(kept.channels, channels)
    np.testing.assert_array_equal(kept.neurons, neurons)
    np.testing.assert_array_equal(kept.heads, [[1, 3], [0, 3]])


def test_each_group_keeps_as_many_heads_and_equal_parts_keep_their_order():
    heads = np.array([[9.0, 8.0, 7.0, 1.0, 2.0, 3.0]])
    activity = Activity(np.ones(6), np.array([[1.0, 3.0, 2.0]]), heads, np.ones([1, 4, 6]), np.ones(6))
    sizes = {"num_key_value_heads": 2}
    kept = choose(activity, WidthCut(hidden_dim=4, intermediate_dim=2, num_query_heads=4), sizes)
    np.testing.assert_array_equal(kept.channels, [0, 1, 2, 3])
    np.testing.assert_array_equal(kept.neurons, [[1, 2]])
    np.testing.assert_array_equal(kept.heads, [[0, 1, 4, 5]])


@pytest.fixture(scope="module")
def blocks(tiny_teacher, windows):
    """A local and the global block, what enters them, and their activations, with padding."""
    mask = tf.constant(windows != 0, tf.int32)
    x = tf.constant(np.random.default_rng(0).normal(size=(*windows.shape, CHANNELS)), tf.float32)
    layers = [tiny_teacher.backbone.transformer_layers[index] for index in (0, 5)]
    return [(layer, x, mask, block_activations(layer, x, mask)) for layer in layers]


def test_activations_leave_a_block_as_kerashub_computes_it(blocks):
    for layer, x, mask, found in blocks:
        np.testing.assert_array_equal(found.leaving, layer(x, padding_mask=mask))
        assert found.heads.shape == (*x.shape[:2], HEADS, 8)
        assert found.neurons.shape == (*x.shape[:2], NEURONS)


def test_importance_is_the_mean_over_tokens_and_the_norm_over_windows(model, windows):
    mask = (windows != 0).astype("float32")
    x = model.backbone.token_embedding(windows) * np.sqrt(np.float32(CHANNELS))
    block = block_activations(model.backbone.transformer_layers[0], x, tf.constant(mask, tf.int32))
    means = (np.abs(block.neurons) * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    heads = (np.linalg.norm(block.heads, axis=-1) * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    found = measure_activity(model, windows)
    np.testing.assert_allclose(found.neurons[0], np.sqrt(np.square(means).sum(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(found.heads[0], np.sqrt(np.square(heads).sum(axis=0)), rtol=1e-5)
    assert found.channels.shape == (CHANNELS,)


def test_a_student_is_cut_after_its_layers_are_chosen_and_always_alike(tiny_teacher, windows):
    cut = WidthCut(hidden_dim=24, num_query_heads=2, calibration_tokens=81)
    vocabulary = full_vocabulary(tiny_teacher.tokenizer)

    def build(calibration) -> Gemma:
        return build_student(StudentConfig(layers=(0, 2), cut=cut), tiny_teacher, vocabulary, 0, "mixed_bfloat16", calibration)

    student = build(windows)
    config = student.config
    assert (config["num_layers"], config["hidden_dim"], config["intermediate_dim"], config["num_query_heads"]) == (2, 24, 48, 2)
    assert (student.backbone.compute_dtype, student.backbone.weights[0].dtype) == ("bfloat16", "float32")
    # 81 tokens are in the first five windows; what comes after them is not looked at.
    again = build(np.concatenate([windows[:5], np.full_like(windows, 7)]))
    for weight, expected in zip(again.backbone.weights, student.backbone.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_cut_needs_text(tiny_teacher):
    student = StudentConfig(cut=WidthCut(hidden_dim=24))
    vocabulary = full_vocabulary(tiny_teacher.tokenizer)
    for calibration in (None, np.zeros([0, 8], np.int32), np.zeros([2, 8], np.int32)):
        with pytest.raises(ConfigError, match=r"student\.cut measures activations on text.* give .*training windows"):
            build_student(student, tiny_teacher, vocabulary, seed=0, calibration=calibration)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"hidden_dim": 33}, r"student\.cut\.hidden_dim is 33, but the teacher has 32"),
        ({"intermediate_dim": 49}, r"student\.cut\.intermediate_dim is 49, but the teacher has 48"),
        ({"num_query_heads": 6}, r"student\.cut\.num_query_heads is 6, but the teacher has 4"),
        (
            {"num_query_heads": 3},
            r"student\.cut\.num_query_heads is 3, but each of the teacher's 2 key-value heads .*: choose a multiple of 2",
        ),
    ],
)
def test_sizes_that_a_teacher_can_not_be_cut_to(tiny_teacher, cut, message):
    with pytest.raises(ConfigError, match=message):
        check_cut(WidthCut(**cut), tiny_teacher.config)


def test_norms_that_a_model_lacks_are_not_needed(tiny_teacher, windows):
    config = tiny_teacher.config | {
        "num_layers": 1,
        "use_post_attention_norm": False,
        "use_post_ffw_norm": False,
        "use_query_key_norm": False,
        "name": "plain",
    }
    model = Gemma(keras_hub.models.Gemma3Backbone.from_config(config), tiny_teacher.tokenizer)
    smaller = cut_width(model, WidthCut(hidden_dim=24), windows)
    assert np.all(np.isfinite(smaller.logits(windows)))
