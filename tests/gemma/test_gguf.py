"""Reading GGUF files: all quantisations, the larger models' metadata, and damaged files."""

import gguf as ggml
import keras_hub
import numpy as np
import pytest

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.gemma import gguf
from gemma_tf_distill.gemma.gguf_file import GGUFFile
from gemma_tf_distill.gemma.model import Gemma, architecture
from gemma_tf_distill.gemma.teacher import describe_source

Type = ggml.GGMLQuantizationType


def token_ids(model: Gemma) -> np.ndarray:
    ids = np.random.default_rng(1).integers(4, model.tokenizer.vocabulary_size, (2, 24))
    ids[:, 0] = model.tokenizer.bos_id
    return ids


def test_float32_gives_the_same_logits_and_tokenizer(tiny_teacher, tiny_gguf):
    loaded = gguf.load_gguf(tiny_gguf)
    ids = token_ids(tiny_teacher)
    # The norms lose a bit where 1 is added and taken away: 1e-7 of scales near 1.
    np.testing.assert_allclose(loaded.logits(ids), tiny_teacher.logits(ids), atol=1e-5)
    text = "Returns the mean of  values\n\n   and <start_of_turn>\tnaïve 漢字"
    assert loaded.tokenizer.encode(text) == tiny_teacher.tokenizer.encode(text)
    assert [loaded.tokenizer.piece(i) for i in range(420)] == [tiny_teacher.tokenizer.piece(i) for i in range(420)]
    assert loaded.parameters == tiny_teacher.parameters


@pytest.mark.parametrize(
    ("quantization", "relative"),
    # Half a step of the type: 8 and 11 bits of mantissa; 127 steps to the block's largest; 31 for five bits with a minimum.
    [(Type.BF16, 2**-8), (Type.F16, 2**-11), (Type.Q8_0, 0.6 / 127), (Type.Q5_0, 1.1 / 16), (Type.Q4_0, 1.1 / 8)],
)
def test_quantised_tensors_come_back_within_half_a_step(tiny_teacher, tiny_tensors, gguf_writer, tmp_path, quantization, relative):
    gguf_writer(tmp_path / "model.gguf", tiny_teacher, quantization=quantization)
    file = GGUFFile(tmp_path / "model.gguf")
    assert file.tensors["blk.0.attn_q.weight"].quantization == quantization
    for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.6.attn_output.weight"):
        expected = tiny_tensors[name]
        blocks = expected.reshape(-1, 32)
        step = relative * np.abs(blocks).max(axis=1, keepdims=True)
        assert (np.abs(file.tensor(name).reshape(-1, 32) - blocks) <= step).all()


def test_bfloat16_weights_on_request(tiny_gguf):
    loaded = gguf.load_gguf(tiny_gguf, dtype="bfloat16")
    assert {weight.dtype for weight in loaded.backbone.weights} == {"bfloat16"}


def test_rows_of_a_tensor(tiny_gguf, tiny_tensors, monkeypatch):
    monkeypatch.setattr("gemma_tf_distill.gemma.gguf_file._ROWS_AT_A_TIME", 100)
    file = GGUFFile(tiny_gguf)
    parts = [file.tensor("token_embd.weight", rows) for rows in file.blocks("token_embd.weight")]
    assert [len(part) for part in parts] == [100, 100, 100, 100, 20]
    np.testing.assert_array_equal(np.concatenate(parts), tiny_tensors["token_embd.weight"])


@pytest.mark.parametrize("pattern", [None, 6])
def test_linear_rope_scaling_and_windows_of_the_larger_models(tiny_teacher, gguf_writer, tmp_path, pattern):
    metadata = {
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
        "attention.sliding_window": 1024,
        "rope.freq_base_swa": 1e4,
        "attention.sliding_window_pattern": pattern,
    }
    gguf_writer(tmp_path / "model.gguf", tiny_teacher, **metadata)
    loaded = gguf.load_gguf(tmp_path / "model.gguf")
    assert loaded.config["sliding_window_size"] == 1024
    for index, layer in enumerate(loaded.backbone.transformer_layers):
        assert layer.attention.rope_layer.scaling_factor == (8 if index == 5 else 1)
        assert layer.sliding_window_size == 1024


def test_the_27b_divides_queries_by_hidden_size_over_heads(tiny_tokenizer, gguf_writer, tmp_path, monkeypatch):
    assert describe_source("preset:gemma3_27b_text")["num_layers"] == gguf._LAYERS_OF_27B
    monkeypatch.setattr(gguf, "_LAYERS_OF_27B", 2)
    sizes = {
        "hidden_dim": 32,
        "num_query_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "intermediate_dim": 8,
        "sliding_window_size": 8,
    }
    config = architecture(vocabulary_size=tiny_tokenizer.vocabulary_size, num_layers=2, **sizes)
    model = Gemma(keras_hub.models.Gemma3Backbone(**config), tiny_tokenizer)
    random = np.random.default_rng(0)
    for weight in model.backbone.weights:
        weight.assign(random.normal(scale=0.3, size=weight.shape))
    gguf_writer(tmp_path / "model.gguf", model)
    loaded = gguf.load_gguf(tmp_path / "model.gguf")
    ids = token_ids(model)
    by_head_dim = model.logits(ids).numpy()
    for layer in model.backbone.transformer_layers:
        layer.attention.query_head_dim_normalize = False
    np.testing.assert_allclose(loaded.logits(ids), model.logits(ids), atol=1e-4)
    assert np.abs(loaded.logits(ids) - by_head_dim).max() > 0.1


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"architecture": "llama"}, "architecture 'llama', not gemma3"),
        ({"architecture": "gemma2"}, "architecture 'gemma2', not gemma3"),
        ({"block_count": None}, "lacks gemma3.block_count"),
        ({"block_count": 8}, r"tensor blk\.7\.attn_q\.weight is missing"),
        ({"embedding_length": 64}, r"tensor token_embd\.weight has shape \(420, 32\), its metadata ask for \(420, 64\)"),
        ({"rope.freq_base": 1e4}, r"rope\.freq_base 10000\.0; Gemma 3 has 1000000\.0"),
        ({"rope.scaling.type": "yarn"}, "'yarn'"),
        ({"attention.sliding_window_pattern": 4}, "five local layers and a global one"),
    ],
)
def test_another_model_is_refused(tiny_teacher, gguf_writer, tmp_path, metadata, message):
    gguf_writer(tmp_path / "model.gguf", tiny_teacher, **metadata)
    with pytest.raises(WeightsError, match=message) as caught:
        gguf.load_gguf(tmp_path / "model.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("blk.3.ffn_up.weight"), r"incomplete: tensor blk\.3\.ffn_up\.weight is missing"),
        (lambda tensors: tensors.pop("token_embd.weight"), r"incomplete: tensor token_embd\.weight is missing"),
        (lambda tensors: tensors.update({"output.weight": tensors["token_embd.weight"]}), r"output\.weight is not part"),
        (lambda tensors: tensors.update({"blk.0.attn_k.weight": np.ones((8, 32), "float32")}), r"shape \(8, 32\)"),
        (lambda tensors: tensors.update({"blk.2.ffn_norm.weight": np.full(32, np.nan, "float32")}), "not finite"),
    ],
)
def test_wrong_tensors_are_refused(tiny_teacher, tiny_tensors, gguf_writer, tmp_path, change, message):
    tensors = dict(tiny_tensors)
    change(tensors)
    gguf_writer(tmp_path / "model.gguf", tiny_teacher, tensors=tensors)
    with pytest.raises(WeightsError, match=message):
        gguf.load_gguf(tmp_path / "model.gguf")


def test_a_file_cut_anywhere_is_refused(tiny_gguf, tmp_path):
    whole = tiny_gguf.read_bytes()
    # The last tensor may be followed by padding of up to 31 bytes.
    for length in [0, 3, 10, 23, 24, 100, 700, 5_000, 9_000, len(whole) // 2, len(whole) - 32]:
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"too short|truncated"):
            gguf.load_gguf(tmp_path / "cut.gguf")


def test_a_damaged_header_never_ends_in_a_foreign_error(tiny_gguf, tmp_path):
    whole = bytearray(tiny_gguf.read_bytes())
    random = np.random.default_rng(0)
    header = min(info.offset for info in GGUFFile(tiny_gguf).tensors.values())
    refused = 0
    for position in random.integers(0, header, 150):
        damaged = bytearray(whole)
        damaged[position : position + 8] = random.bytes(8)
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        try:
            file = gguf.open_gguf(tmp_path / "damaged.gguf")
            gguf.read_architecture(file)
            gguf.read_tokenizer(file)
        except WeightsError:
            refused += 1
    # A score, a key that is not used, or a letter of a piece may change without a sign.
    assert refused > 50


def test_files_that_are_not_gguf(tmp_path):
    (tmp_path / "text.gguf").write_text("This is a text of more than twenty-four letters.")
    with pytest.raises(WeightsError, match="not a GGUF file: it begins with b'This'"):
        gguf.load_gguf(tmp_path / "text.gguf")
    with pytest.raises(WeightsError, match="no GGUF file"):
        gguf.load_gguf(tmp_path / "missing.gguf")


def test_a_file_of_known_name_and_size_must_have_the_known_sha256(tiny_gguf, monkeypatch):
    monkeypatch.setitem(gguf.KNOWN_FILES, ("tiny", tiny_gguf.stat().st_size), "0" * 64)
    with pytest.raises(WeightsError, match="sha256"):
        gguf.load_gguf(tiny_gguf)


def read_all(path):
    file = gguf.open_gguf(path)
    gguf.read_architecture(file)
    gguf.read_tokenizer(file)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.alignment", 0),
        ("gemma3.block_count", "seven"),
        ("gemma3.rope.freq_base", "high"),
        ("gemma3.rope.scaling.factor", "eight"),
        ("tokenizer.ggml.tokens", 3),
        ("tokenizer.ggml.scores", ["a", "b"]),
    ],
)
def test_metadata_of_the_wrong_kind_are_one_line(tiny_gguf, tmp_path, monkeypatch, key, value):
    """A header that is well-formed and says nonsense, as a careless converter writes it."""
    read = GGUFFile._read_header

    def nonsense(self):
        read(self)
        self.metadata[key] = value
        if key == "gemma3.rope.scaling.factor":
            self.metadata["gemma3.rope.scaling.type"] = "linear"
        if key == "general.alignment":
            raise ZeroDivisionError

    monkeypatch.setattr(GGUFFile, "_read_header", nonsense)
    with pytest.raises(WeightsError) as caught:
        read_all(tiny_gguf)
    assert "is damaged" in str(caught.value)
    assert "\n" not in str(caught.value)
