"""A writer of GGUF files, as llama.cpp's converter makes them, for tests of the reader."""

import gguf
import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2

from gemma_tf_distill.gemma.model import Gemma

F32 = gguf.GGMLQuantizationType.F32


def gguf_tensors(model: Gemma) -> dict[str, np.ndarray]:
    """llama.cpp's names and shapes of a model's weights."""

    def matrix(dense) -> np.ndarray:
        """[n, d, h] to [n·h, d]."""
        kernel = np.asarray(dense.kernel)
        return kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1])

    tensors = {
        "token_embd": np.asarray(model.backbone.token_embedding.embeddings),
        "output_norm": 1 + np.asarray(model.backbone.layer_norm.scale),
    }
    for index, layer in enumerate(model.backbone.transformer_layers):
        attention = layer.attention
        output = np.asarray(attention.output_dense.kernel)
        tensors |= {
            f"blk.{index}.{name}": np.ascontiguousarray(value)
            for name, value in {
                "attn_q": matrix(attention.query_dense),
                "attn_k": matrix(attention.key_dense),
                "attn_v": matrix(attention.value_dense),
                "attn_output": output.reshape(-1, output.shape[-1]).T,
                "ffn_gate": np.asarray(layer.gating_ffw.kernel).T,
                "ffn_up": np.asarray(layer.gating_ffw_2.kernel).T,
                "ffn_down": np.asarray(layer.ffw_linear.kernel).T,
                "attn_q_norm": 1 + np.asarray(attention.query_norm.scale),
                "attn_k_norm": 1 + np.asarray(attention.key_norm.scale),
                "attn_norm": 1 + np.asarray(layer.pre_attention_norm.scale),
                "post_attention_norm": 1 + np.asarray(layer.post_attention_norm.scale),
                "ffn_norm": 1 + np.asarray(layer.pre_ffw_norm.scale),
                "post_ffw_norm": 1 + np.asarray(layer.post_ffw_norm.scale),
            }.items()
        }
    return {f"{name}.weight": value for name, value in tensors.items()}


def write_gguf(path, model: Gemma, *, quantization=F32, architecture="gemma3", tensors=None, **metadata) -> None:
    """Writes `model`; matrices whose rows the quantisation can hold are quantised, the rest stays float32."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    sizes = {
        "block_count": config["num_layers"],
        "embedding_length": config["hidden_dim"],
        "feed_forward_length": config["intermediate_dim"],
        "attention.head_count": config["num_query_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.sliding_window": config["sliding_window_size"],
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
    } | metadata
    for key, value in sizes.items():
        if value is not None:
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
            add(f"{architecture}.{key}", value)
    pieces = sentencepiece_model_pb2.ModelProto.FromString(model.tokenizer.proto).pieces
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    writer.add_tokenizer_model("llama")
    # What llama.cpp's converter changes: spaces in user-defined pieces, and the types of <unk> and of the chat pieces.
    writer.add_token_list([p.piece.replace("▁", " ") if p.type == kinds.USER_DEFINED else p.piece for p in pieces])
    writer.add_token_scores([p.score for p in pieces])
    control = ("<unk>", "<start_of_turn>", "<end_of_turn>")
    writer.add_token_types([kinds.CONTROL if p.piece in control else p.type for p in pieces])
    block = gguf.GGML_QUANT_SIZES[quantization][0]
    for name, value in (gguf_tensors(model) if tensors is None else tensors).items():
        kind = quantization if value.ndim == 2 and value.shape[1] % block == 0 else F32
        writer.add_tensor(name, gguf.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def gguf_writer():
    """The function `write_gguf`."""
    return write_gguf


@pytest.fixture(scope="session")
def tiny_gguf(tiny_teacher, tmp_path_factory):
    """A float32 GGUF file of the tiny teacher."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tiny_teacher)
    return path


@pytest.fixture(scope="session")
def tiny_tensors(tiny_teacher):
    """The tensors of that file."""
    return gguf_tensors(tiny_teacher)
