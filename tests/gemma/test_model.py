"""Gemma: logits, saving, loading, and folders that are not what they should be."""

import json

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.gemma.model import Gemma, architecture, is_local


@pytest.fixture(scope="module")
def saved(tiny_teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_teacher.save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the saved folder that a test may damage."""
    folder = tmp_path / "copy"
    tf.io.gfile.makedirs(str(folder))
    for path in saved.rglob("*"):
        target = folder / path.relative_to(saved)
        target.mkdir(parents=True, exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    return folder


def token_ids(model: Gemma, batch: int = 2, length: int = 24) -> np.ndarray:
    ids = np.random.default_rng(1).integers(4, model.tokenizer.vocabulary_size, (batch, length))
    ids[:, 0] = model.tokenizer.bos_id
    return ids


def test_logits_are_those_of_kerashub_causal_lm(tiny_teacher):
    ids = token_ids(tiny_teacher)
    task = keras_hub.models.Gemma3CausalLM(backbone=tiny_teacher.backbone, preprocessor=None)
    expected = task({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    logits = tiny_teacher.logits(ids)
    assert logits.dtype == tf.float32
    np.testing.assert_array_equal(logits, expected)


def test_logits_do_not_see_the_future_or_padding(tiny_teacher):
    ids = token_ids(tiny_teacher)
    padded = ids.copy()
    padded[:, 10:] = tiny_teacher.tokenizer.pad_id
    changed = ids.copy()
    changed[:, 10:] = 5
    # Float32 sums of other lengths round differently: 1e-5 on logits of size 1.
    np.testing.assert_allclose(tiny_teacher.logits(padded)[:, :10], tiny_teacher.logits(ids)[:, :10], atol=1e-5)
    np.testing.assert_allclose(tiny_teacher.logits(changed)[:, :10], tiny_teacher.logits(ids)[:, :10], atol=1e-5)


def test_logits_are_the_same_under_xla(tiny_teacher):
    ids = token_ids(tiny_teacher)
    compiled = tf.function(tiny_teacher.logits, jit_compile=True)(tf.constant(ids))
    # XLA fuses and reorders float32 sums.
    np.testing.assert_allclose(compiled, tiny_teacher.logits(ids), atol=1e-4)


def test_local_layers_have_the_short_rope_and_every_sixth_is_global(tiny_teacher):
    for index, layer in enumerate(tiny_teacher.backbone.transformer_layers):
        assert is_local(index, tiny_teacher.config) == (layer.rope_wavelength == 10_000) == (index != 5)


def test_a_saved_model_loads_with_the_same_logits_and_tokenizer(tiny_teacher, saved):
    loaded = Gemma.load(saved)
    ids = token_ids(tiny_teacher)
    assert loaded.tokenizer == tiny_teacher.tokenizer
    assert loaded.parameters == tiny_teacher.parameters
    np.testing.assert_array_equal(loaded.logits(ids), tiny_teacher.logits(ids))


def test_kerashub_itself_loads_a_saved_model(tiny_teacher, saved):
    task = keras_hub.models.Gemma3CausalLM.from_preset(str(saved), dtype="float32")
    text = "The mean of <start_of_turn>\n\n  values"
    tokenizer = task.preprocessor.tokenizer
    assert np.asarray(tokenizer(text)).tolist() == tiny_teacher.tokenizer.encode(text)
    assert tokenizer.detokenize(tiny_teacher.tokenizer.encode(text)) == text
    ids = token_ids(tiny_teacher)
    np.testing.assert_array_equal(task({"token_ids": ids, "padding_mask": np.ones_like(ids)}), tiny_teacher.logits(ids))


def test_loading_in_bfloat16(tiny_teacher, saved):
    loaded = Gemma.load(saved, dtype="bfloat16")
    ids = token_ids(tiny_teacher)
    assert {weight.dtype for weight in loaded.backbone.weights} == {"bfloat16"}
    logits = loaded.logits(ids)
    assert logits.dtype == tf.float32
    # bfloat16 has 8 bits of mantissa; logits spread by about 1 after seven layers.
    assert np.abs(logits - tiny_teacher.logits(ids)).mean() < 0.1


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(tiny_teacher, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale").write_text("old")
    tiny_teacher.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "stale").exists()


def test_a_save_that_fails_leaves_the_former_model(tiny_teacher, copy, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    before = (copy / "model.weights.h5").read_bytes()
    monkeypatch.setattr(keras_hub.models.Gemma3Backbone, "save_weights", fail)
    with pytest.raises(OSError, match="disk full"):
        tiny_teacher.save(copy)
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
    assert (copy / "model.weights.h5").read_bytes() == before


@pytest.mark.parametrize("checksums", [True, False])
def test_truncated_weights_are_refused(copy, checksums):
    weights = (copy / "model.weights.h5").read_bytes()
    (copy / "model.weights.h5").write_bytes(weights[: len(weights) // 2])
    if not checksums:
        (copy / "checksums.json").unlink()
    with pytest.raises(WeightsError, match="damaged" if checksums else "cannot be read") as caught:
        Gemma.load(copy)
    assert "\n" not in str(caught.value)


def test_a_changed_byte_is_refused(copy):
    weights = bytearray((copy / "model.weights.h5").read_bytes())
    weights[-100] ^= 1
    (copy / "model.weights.h5").write_bytes(weights)
    with pytest.raises(WeightsError, match=r"model\.weights\.h5 is damaged: its sha256"):
        Gemma.load(copy)


def test_a_missing_file_is_refused(copy):
    (copy / "assets" / "tokenizer" / "vocabulary.spm").unlink()
    with pytest.raises(WeightsError, match=r"vocabulary\.spm is missing"):
        Gemma.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: saved.update(class_name="GemmaBackbone"), "holds a GemmaBackbone"),
        (lambda saved: saved["config"].update(vision_encoder={"class_name": "V"}), "vision encoder: choose the text-only"),
        (lambda saved: saved["config"].update(is_embedding_model=True), "embedding model"),
        (lambda saved: saved.pop("config"), "is damaged"),
    ],
)
def test_another_architecture_is_refused(copy, change, message):
    config = json.loads((copy / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        Gemma.load(copy)


def test_a_tokenizer_of_another_size_is_refused(tiny_teacher):
    config = architecture(
        vocabulary_size=300,
        num_layers=1,
        num_query_heads=1,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=8,
        head_dim=8,
        sliding_window_size=8,
    )
    with pytest.raises(WeightsError, match="300 rows and the tokenizer 420 pieces"):
        Gemma(keras_hub.models.Gemma3Backbone(**config), tiny_teacher.tokenizer)


def test_a_query_scale_that_kerashub_ignores_is_folded_into_the_norm(tiny_tokenizer, tmp_path):
    sizes = {
        "hidden_dim": 32,
        "num_query_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "intermediate_dim": 8,
        "sliding_window_size": 8,
    }
    config = architecture(vocabulary_size=tiny_tokenizer.vocabulary_size, num_layers=6, **sizes) | {"query_head_dim_normalize": False}
    model = Gemma(keras_hub.models.Gemma3Backbone(**config), tiny_tokenizer)
    random = np.random.default_rng(0)
    for weight in model.backbone.weights:
        weight.assign(random.normal(scale=0.3, size=weight.shape))
    model.save(tmp_path / "model")
    loaded = Gemma.load(tmp_path / "model")
    # What the config asks for: KerasHub's decoder block does not pass it on to the attention.
    for layer in model.backbone.transformer_layers:
        layer.attention.query_head_dim_normalize = False
    ids = token_ids(model)
    np.testing.assert_allclose(loaded.logits(ids), model.logits(ids), atol=1e-4)

    loaded.save(tmp_path / "again")
    np.testing.assert_array_equal(Gemma.load(tmp_path / "again").logits(ids), loaded.logits(ids))
