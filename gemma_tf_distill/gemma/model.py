"""A text-only Gemma 3: KerasHub's backbone and its tokenizer, kept together, saved and loaded together."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import keras_hub
import numpy as np
import tensorflow as tf

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.gemma.storage import local_folder, one_line, publish_folder, read_file
from gemma_tf_distill.gemma.tokenizer import Tokenizer

TOKENIZER_ASSET = "assets/tokenizer/vocabulary.spm"

# Five local layers, then a global one: Gemma Team 2025, "Gemma 3 Technical Report", section 2.
LAYER_PERIOD = 6


def is_local(layer_index: int, config: Mapping[str, Any]) -> bool:
    """Whether a layer looks a sliding window back (RoPE base 10,000) rather than at everything (base 1,000,000).

    Args:
      layer_index: from 0; KerasHub decides by the index alone.
      config: a backbone's config, as `Gemma.config` and `describe_source` give it.
    """
    return bool(config["use_sliding_window_attention"]) and layer_index % LAYER_PERIOD < LAYER_PERIOD - 1


def architecture(
    *,
    vocabulary_size: int,
    num_layers: int,
    num_query_heads: int,
    num_key_value_heads: int,
    hidden_dim: int,
    intermediate_dim: int,
    head_dim: int,
    sliding_window_size: int,
    global_rope_scaling_factor: float = 1.0,
) -> dict[str, Any]:
    """The arguments of `keras_hub.models.Gemma3Backbone` for a text-only Gemma 3 of these sizes."""
    return {
        "vocabulary_size": vocabulary_size,
        "image_size": None,
        "num_layers": num_layers,
        "num_query_heads": num_query_heads,
        "num_key_value_heads": num_key_value_heads,
        "hidden_dim": hidden_dim,
        "intermediate_dim": intermediate_dim,
        "head_dim": head_dim,
        "query_head_dim_normalize": True,
        "use_query_key_norm": True,
        "use_post_ffw_norm": True,
        "use_post_attention_norm": True,
        "use_sliding_window_attention": True,
        "sliding_window_size": sliding_window_size,
        "local_rope_scaling_factor": 1.0,
        "global_rope_scaling_factor": global_rope_scaling_factor,
    }


@dataclasses.dataclass(eq=False)
class Gemma:
    """A text-only Gemma 3.

    Attributes:
      backbone: KerasHub's model, from token ids to the last hidden states.
      tokenizer: it has as many pieces as the backbone's embedding has rows.

    Raises:
      WeightsError: if their vocabularies differ in size.
    """

    backbone: keras_hub.models.Gemma3Backbone
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        if self.backbone.vocabulary_size != self.tokenizer.vocabulary_size:
            raise WeightsError(
                f"the embedding has {self.backbone.vocabulary_size} rows and the tokenizer {self.tokenizer.vocabulary_size} pieces: "
                "they belong to different models"
            )

    @property
    def config(self) -> dict[str, Any]:
        """The backbone's config, in KerasHub's words (`num_layers`, `hidden_dim`, …)."""
        return self.backbone.get_config()

    @property
    def parameters(self) -> int:
        """Number of weights; the embedding, tied to the output, counts once."""
        return self.backbone.count_params()

    def logits(self, token_ids: Any, padding_mask: Any = None) -> tf.Tensor:
        """Scores of every next token. Works eagerly, inside `tf.function` and under XLA.

        Args:
          token_ids: integers [B, T].
          padding_mask: [B, T], true (or 1) at tokens, false (or 0) at padding; none: all that is not `<pad>` is a token.

        Returns:
          float32 [B, T, V], before the softmax.
        """
        token_ids = tf.cast(tf.convert_to_tensor(token_ids), tf.int32)
        mask = tf.not_equal(token_ids, self.tokenizer.pad_id) if padding_mask is None else tf.convert_to_tensor(padding_mask)
        hidden = self.backbone({"token_ids": token_ids, "padding_mask": tf.cast(mask, tf.int32)})
        return tf.cast(self.backbone.token_embedding(hidden, reverse=True), tf.float32)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes a preset folder that `keras_hub.models.Gemma3CausalLM.from_preset` loads; it appears whole or not at all.

        A former folder is replaced. `checksums.json` in it holds the sha256 of every other file.
        """
        preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(tokenizer=self.tokenizer.keras_hub())
        with publish_folder(folder) as local:
            keras_hub.models.Gemma3CausalLM(backbone=self.backbone, preprocessor=preprocessor).save_to_preset(os.fspath(local))

    @classmethod
    def load(cls, folder: str | os.PathLike, dtype: str = "float32") -> "Gemma":
        """Loads a folder that `save`, or KerasHub's `save_to_preset`, wrote.

        Args:
          folder: local, or anything that `tf.io.gfile` opens.
          dtype: of weights and computation: `float32`, `bfloat16` or `mixed_bfloat16`.

        Raises:
          WeightsError: if there is no model, it is of another architecture, or its files are damaged.
        """
        read_config(folder)
        with local_folder(folder) as local:
            tokenizer = read_tokenizer(local)
            try:
                backbone = keras_hub.models.Gemma3Backbone.from_preset(os.fspath(local), dtype=dtype)
            except (OSError, ValueError, KeyError) as error:
                raise WeightsError(f"the weights in {folder} cannot be read ({one_line(error)}): save the folder again") from error
        return cls.restored(backbone, tokenizer)

    @classmethod
    def restored(cls, backbone: keras_hub.models.Gemma3Backbone, tokenizer: Tokenizer) -> "Gemma":
        """A Gemma from weights that KerasHub has just loaded; a query scale that KerasHub ignores is folded into them."""
        if not backbone.query_head_dim_normalize:
            fold_query_scale(backbone, backbone.hidden_dim // backbone.num_query_heads)
        return cls(backbone, tokenizer)


def new_backbone(model: Gemma, *, dtype: str, **sizes: int) -> keras_hub.models.Gemma3Backbone:
    """A backbone with fresh weights and a model's architecture, some of its sizes changed."""
    config = {key: value for key, value in model.config.items() if key not in ("name", "trainable")}
    return keras_hub.models.Gemma3Backbone(**config | sizes | {"dtype": dtype})


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """The backbone's config in a preset folder, without reading its weights.

    Raises:
      WeightsError: if the folder is no preset, or not of a text-only, causal Gemma 3.
    """
    path = os.path.join(folder, "config.json")
    text = read_file(path)
    try:
        saved = json.loads(text)
        class_name, config = str(saved["class_name"]), dict(saved["config"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged: it is not the config of a KerasHub model") from error
    check_text_only(class_name, config, os.fspath(folder))
    for size in ("num_layers", "vocabulary_size", "hidden_dim", "intermediate_dim", "num_query_heads", "num_key_value_heads", "head_dim"):
        if not isinstance(config.get(size), int) or config[size] < 1:
            raise WeightsError(f"{path} is damaged: {size} must be a whole number above 0, not {config.get(size)!r}")
    return config


def check_text_only(class_name: str, config: Mapping[str, Any], name: str) -> None:
    """Raises WeightsError unless a KerasHub config is that of a text-only, causal Gemma 3; `name` is what the message calls it."""
    if class_name != "Gemma3Backbone":
        raise WeightsError(f"{name} holds a {class_name}, not a Gemma3Backbone: choose a Gemma 3 text model")
    if config.get("vision_encoder") is not None:
        raise WeightsError(f"{name} has a vision encoder: choose the text-only version of that model")
    if config.get("is_embedding_model") or config.get("use_bidirectional_attention"):
        raise WeightsError(f"{name} is an embedding model, which predicts no next word: choose a Gemma 3 text model")


def read_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """The tokenizer in a preset folder, local or remote; raises WeightsError where it is missing or damaged."""
    return Tokenizer(read_file(os.path.join(folder, TOKENIZER_ASSET)))


def fold_query_scale(backbone: keras_hub.models.Gemma3Backbone, query_scalar: int) -> None:
    """Makes attention divide queries by the square root of `query_scalar` instead of `head_dim`, by changing the query norms.

    The 27B divides by hidden_dim / num_query_heads (Gemma Team 2025, as in `query_pre_attn_scalar` of its published config), but
    KerasHub 0.32's decoder block ignores `query_head_dim_normalize=False`. The rotation that follows the norm is linear, so a
    factor in the norm's scale does the same, and outlives saving and export.
    """
    factor = np.sqrt(backbone.head_dim / query_scalar)
    for layer in backbone.transformer_layers:
        norm = layer.attention.query_norm
        norm.scale.assign((1 + np.asarray(norm.scale, "float32")) * factor - 1)
    backbone.query_head_dim_normalize = True
