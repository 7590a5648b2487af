"""A small model whose matrices can be cut into blocks of 32."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.gemma.model import Gemma


@pytest.fixture
def make_model(tiny_tokenizer):
    """Fresh Gemmas of width 32; the same seed gives the same weights."""

    def make(seed: int = 0, dtype: str = "float32", num_layers: int = 2) -> Gemma:
        backbone = keras_hub.models.Gemma3Backbone(
            vocabulary_size=tiny_tokenizer.vocabulary_size,
            image_size=None,
            num_layers=num_layers,
            num_query_heads=4,
            num_key_value_heads=2,
            hidden_dim=32,
            intermediate_dim=64,
            head_dim=8,
            use_query_key_norm=True,
            use_post_ffw_norm=True,
            use_post_attention_norm=True,
            use_sliding_window_attention=True,
            sliding_window_size=16,
            dtype=dtype,
        )
        random = np.random.default_rng(seed)
        for weight in backbone.weights:
            weight.assign(random.normal(scale=0.2, size=weight.shape).astype("float32"))
        return Gemma(backbone, tiny_tokenizer)

    return make


@pytest.fixture
def tokens(tiny_tokenizer) -> tf.Tensor:
    """int32 [4, 12]."""
    windows = np.random.default_rng(3).integers(4, 300, size=(4, 12))
    windows[:, 0] = tiny_tokenizer.bos_id
    return tf.constant(windows, tf.int32)
