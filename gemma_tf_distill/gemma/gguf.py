"""Gemma 3 from a GGUF file, as llama.cpp's converter writes it: sizes, tokenizer and weights."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import keras_hub
import numpy as np
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.gemma.gguf_file import GGUFFile
from gemma_tf_distill.gemma.model import LAYER_PERIOD, Gemma, architecture, fold_query_scale
from gemma_tf_distill.gemma.storage import file_sha256, one_line
from gemma_tf_distill.gemma.tokenizer import Tokenizer
from gemma_tf_distill.gemma.vocabulary import Vocabulary, full_vocabulary
from gemma_tf_distill.monitoring.progress import progress

# Published files whose sha256 is known: (general.name, bytes) to sha256.
KNOWN_FILES = {("Gemma 3 270m", 253_113_024): "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"}

# KerasHub's Gemma 3 has these built in.
_GLOBAL_ROPE_BASE, _LOCAL_ROPE_BASE, _NORM_EPSILON = 1_000_000.0, 10_000.0, 1e-6

# The number of layers by which llama.cpp, too, knows the 27B, whose metadata does not give the query scale.
_LAYERS_OF_27B = 62

_PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece
_Result = TypeVar("_Result")
# llama.cpp's token types are SentencePiece's own numbers.
_TYPES = {_PIECE.NORMAL, _PIECE.UNKNOWN, _PIECE.CONTROL, _PIECE.USER_DEFINED, _PIECE.UNUSED, _PIECE.BYTE}
_CHAT_PIECES = ("<start_of_turn>", "<end_of_turn>")


def _metadata_of_the_right_kind(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Turns what metadata of another kind (a text for a number, say) make of `function` into a WeightsError."""

    @functools.wraps(function)
    def checked(file: GGUFFile) -> _Result:
        try:
            return function(file)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise WeightsError(f"{file.path} is damaged: its metadata have values of the wrong kind ({one_line(error)})") from error

    return checked


def open_gguf(path: str | os.PathLike) -> GGUFFile:
    """Opens a GGUF file and checks that it is a Gemma 3; raises WeightsError if it is not, or is damaged."""
    file = GGUFFile(path)
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name != "gemma3":
        raise WeightsError(f"{file.path} holds a model of architecture {name!r}, not gemma3: choose a Gemma 3 GGUF")
    return file


@_metadata_of_the_right_kind
def read_architecture(file: GGUFFile) -> dict[str, Any]:
    """The arguments of `Gemma3Backbone` that a file's metadata gives.

    Raises:
      WeightsError: if a size is missing, or the model has something that KerasHub's Gemma 3 has not.
    """

    def value(key: str, default: Any = None) -> Any:
        found = file.metadata.get(f"gemma3.{key}", default)
        if found is None:
            raise WeightsError(f"{file.path} lacks gemma3.{key} in its metadata: it is not a whole Gemma 3")
        return found

    def require(key: str, expected: float, default: float) -> None:
        if not np.isclose(value(key, default), expected):
            raise WeightsError(f"{file.path} has gemma3.{key} {value(key, default)}; Gemma 3 has {expected}")

    require("rope.freq_base", _GLOBAL_ROPE_BASE, _GLOBAL_ROPE_BASE)
    require("rope.freq_base_swa", _LOCAL_ROPE_BASE, _LOCAL_ROPE_BASE)
    require("attention.layer_norm_rms_epsilon", _NORM_EPSILON, _NORM_EPSILON)
    require("attention.value_length", value("attention.key_length"), value("attention.key_length"))
    require("final_logit_softcapping", 0, 0)
    layers = value("block_count")
    _check_pattern(file, value("attention.sliding_window_pattern", LAYER_PERIOD), layers)
    scaling = value("rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise WeightsError(f"{file.path} scales its rotary embedding by {scaling!r}; Gemma 3 does it linearly")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise WeightsError(f"{file.path} is incomplete: tensor token_embd.weight is missing")
    return architecture(
        vocabulary_size=embedding.shape[0],
        num_layers=layers,
        num_query_heads=value("attention.head_count"),
        num_key_value_heads=value("attention.head_count_kv"),
        hidden_dim=value("embedding_length"),
        intermediate_dim=value("feed_forward_length"),
        head_dim=value("attention.key_length"),
        sliding_window_size=value("attention.sliding_window"),
        global_rope_scaling_factor=float(value("rope.scaling.factor", 1.0)) if scaling == "linear" else 1.0,
    )


def _check_pattern(file: GGUFFile, pattern: Any, layers: int) -> None:
    """The key is a period, or a truth value a layer (true: local)."""
    by_layer = [index % LAYER_PERIOD < LAYER_PERIOD - 1 for index in range(layers)]
    if (list(pattern) != by_layer) if np.ndim(pattern) else (int(pattern) != LAYER_PERIOD):
        raise WeightsError(f"{file.path} does not have Gemma 3's pattern of five local layers and a global one")


@_metadata_of_the_right_kind
def read_tokenizer(file: GGUFFile) -> Tokenizer:
    """The SentencePiece model that a file's pieces, scores and types make.

    Raises:
      WeightsError: if the file has no SentencePiece vocabulary, or its parts differ in length.
    """
    model = file.metadata.get("tokenizer.ggml.model")
    if model != "llama":
        raise WeightsError(f"{file.path} has a tokenizer of kind {model!r}; Gemma 3 has a SentencePiece one ('llama')")
    pieces, scores, types = (file.metadata.get(f"tokenizer.ggml.{key}", ()) for key in ("tokens", "scores", "token_type"))
    if not len(pieces) == len(scores) == len(types) or not len(pieces):
        raise WeightsError(f"{file.path} is damaged: it has {len(pieces)} pieces, {len(scores)} scores and {len(types)} types")
    if not _TYPES.issuperset(np.unique(types).tolist()):
        raise WeightsError(f"{file.path} is damaged: it has pieces of unknown types")
    proto = sentencepiece_model_pb2.ModelProto()
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    trainer.byte_fallback = True
    trainer.vocab_size = len(pieces)
    trainer.pad_id, trainer.eos_id, trainer.bos_id, trainer.unk_id = 0, 1, 2, 3
    trainer.pad_piece, trainer.eos_piece, trainer.bos_piece, trainer.unk_piece = "<pad>", "<eos>", "<bos>", "<unk>"
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = False
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    for piece, score, kind in zip(pieces, scores.tolist(), types.tolist(), strict=True):
        if piece == "<unk>":
            kind = _PIECE.UNKNOWN
        elif piece in _CHAT_PIECES:
            kind = _PIECE.USER_DEFINED
        # llama.cpp has runs of spaces as they are; SentencePiece matches text in which a space is already ▁.
        proto.pieces.add(piece=piece.replace(" ", "▁"), score=score, type=kind)
    return Tokenizer(proto.SerializeToString())


def load_gguf(path: str | os.PathLike, dtype: str = "float32", vocabulary: Vocabulary | None = None) -> Gemma:
    """Loads a Gemma 3, one tensor at a time.

    Args:
      path: local path of the file.
      dtype: of weights and computation.
      vocabulary: keep only these words of the file's.

    Raises:
      WeightsError: if the file is damaged, incomplete, or holds something else, or `vocabulary` was made from another tokenizer.
    """
    file = open_gguf(path)
    config = read_architecture(file)
    tokenizer = read_tokenizer(file)
    _check_tensors(file, config)
    _check_sha256(file)
    words = full_vocabulary(tokenizer) if vocabulary is None else vocabulary
    words.check_made_from(tokenizer)
    backbone = keras_hub.models.Gemma3Backbone(**config | {"vocabulary_size": len(words.kept_ids)}, dtype=dtype)
    _load_embedding(backbone.token_embedding.embeddings, file, words.kept_ids)
    _norm(backbone.layer_norm, file.tensor("output_norm.weight"))
    for index, layer in enumerate(backbone.transformer_layers):
        _load_layer(layer, file, index, config)
        progress("weights", index + 1, config["num_layers"], unit="layers")
    if config["num_layers"] == _LAYERS_OF_27B:
        fold_query_scale(backbone, config["hidden_dim"] // config["num_query_heads"])
    return Gemma(backbone, words.tokenizer)


def _load_embedding(embeddings: Any, file: GGUFFile, kept_ids: np.ndarray) -> None:
    """By blocks of rows: in one piece, the largest tensor would need two more copies of itself in float32."""
    for rows in file.blocks("token_embd.weight"):
        first, last = np.searchsorted(kept_ids, [rows.start, rows.stop]).tolist()
        values = file.tensor("token_embd.weight", rows)[kept_ids[first:last] - rows.start]
        embeddings.value[first:last].assign(tf.cast(values, embeddings.dtype))


def _load_layer(layer: Any, file: GGUFFile, index: int, config: Mapping[str, Any]) -> None:
    def tensor(part: str) -> np.ndarray:
        return file.tensor(f"blk.{index}.{part}.weight")

    head_dim, hidden_dim = config["head_dim"], config["hidden_dim"]
    attention = layer.attention
    for dense, part in ((attention.query_dense, "attn_q"), (attention.key_dense, "attn_k"), (attention.value_dense, "attn_v")):
        dense.kernel.assign(tensor(part).reshape(-1, head_dim, hidden_dim).transpose(0, 2, 1))
    attention.output_dense.kernel.assign(tensor("attn_output").T.reshape(-1, head_dim, hidden_dim))
    for dense, part in ((layer.gating_ffw, "ffn_gate"), (layer.gating_ffw_2, "ffn_up"), (layer.ffw_linear, "ffn_down")):
        dense.kernel.assign(tensor(part).T)
    _norm(attention.query_norm, tensor("attn_q_norm"))
    _norm(attention.key_norm, tensor("attn_k_norm"))
    _norm(layer.pre_attention_norm, tensor("attn_norm"))
    _norm(layer.post_attention_norm, tensor("post_attention_norm"))
    _norm(layer.pre_ffw_norm, tensor("ffn_norm"))
    _norm(layer.post_ffw_norm, tensor("post_ffw_norm"))


def _norm(layer: Any, weight: np.ndarray) -> None:
    # llama.cpp's converter adds 1 to the scale; KerasHub adds it when it computes.
    layer.scale.assign(weight - 1)


def _check_tensors(file: GGUFFile, config: Mapping[str, Any]) -> None:
    hidden, inner, head = config["hidden_dim"], config["intermediate_dim"], config["head_dim"]
    queries, keys = config["num_query_heads"] * head, config["num_key_value_heads"] * head
    layer = {
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
        "attn_q_norm": (head,),
        "attn_k_norm": (head,),
        "attn_norm": (hidden,),
        "post_attention_norm": (hidden,),
        "ffn_norm": (hidden,),
        "post_ffw_norm": (hidden,),
    }
    expected: dict[str, tuple[int, ...]] = {"token_embd.weight": (config["vocabulary_size"], hidden), "output_norm.weight": (hidden,)}
    for index in range(config["num_layers"]):
        expected |= {f"blk.{index}.{part}.weight": shape for part, shape in layer.items()}
    for name, shape in expected.items():
        if name not in file.tensors:
            raise WeightsError(f"{file.path} is incomplete: tensor {name} is missing")
        if file.tensors[name].shape != shape:
            raise WeightsError(f"{file.path}: tensor {name} has shape {file.tensors[name].shape}, its metadata ask for {shape}")
    surplus = [name for name in file.tensors if name not in expected]
    if surplus:
        raise WeightsError(f"{file.path}: tensor {surplus[0]} is not part of a text-only Gemma 3 (tied output)")


def _check_sha256(file: GGUFFile) -> None:
    expected = KNOWN_FILES.get((file.metadata.get("general.name", ""), os.path.getsize(file.path)))
    if expected and file_sha256(file.path) != expected:
        raise WeightsError(f"{file.path} is damaged: its sha256 is not {expected}, that of the published file of this name and size")
