"""Models that the tests of all rooms share.

Tests that need the real Gemma 3 270M are marked `real_weights` and take the `real_teacher` fixture; `pytest -m "not real_weights"`
leaves them out. All others use tiny random models.
"""

import io
from collections.abc import Callable
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import sentencepiece

from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.teacher import load_teacher, load_tokenizer
from gemma_tf_distill.gemma.tokenizer import Tokenizer

SENTENCES = [
    "Returns the mean of the values along an axis.",
    "Raises an error if the shape of the array is not the expected one.",
    "The quick brown fox jumps over the lazy dog, again and again.",
    "Parameters\n----------\nvalues : array of numbers\n    The values to be used.\n\nReturns\n-------\nnumber",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "A layer of the model takes the hidden states and returns the hidden states.",
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "Numbers such as 1984 and 2026 are split into digits, naïve café words are not.",
]


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Python's, numpy's and Keras' global generators begin every test alike."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """A SentencePiece BPE of 420 pieces, made as Gemma's: byte fallback, runs of white space and chat tokens user-defined."""
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=proto,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "▁▁", "▁▁▁", "▁▁▁▁"],
        minloglevel=2,
    )
    return Tokenizer(proto.getvalue())


@pytest.fixture(scope="session")
def make_gemma(tiny_tokenizer: Tokenizer) -> Callable[..., Gemma]:
    """Fresh random Gemmas, hidden 32, window 16, with logits that spread by about 1; the same seed and sizes give the same weights."""

    def make(seed: int = 0, **sizes: Any) -> Gemma:
        defaults = {
            "num_layers": 2,
            "num_query_heads": 4,
            "num_key_value_heads": 2,
            "hidden_dim": 32,
            "intermediate_dim": 64,
            "head_dim": 8,
            "use_post_ffw_norm": True,
            "dtype": "float32",
        }
        backbone = keras_hub.models.Gemma3Backbone(
            vocabulary_size=tiny_tokenizer.vocabulary_size,
            image_size=None,
            use_query_key_norm=True,
            use_post_attention_norm=True,
            use_sliding_window_attention=True,
            sliding_window_size=16,
            **{**defaults, **sizes},
        )
        random = np.random.default_rng(seed)
        for weight in backbone.weights:
            # Norm scales too: zeros would hide a norm that was forgotten.
            weight.assign(random.normal(scale=0.2, size=weight.shape).astype("float32"))
        return Gemma(backbone, tiny_tokenizer)

    return make


@pytest.fixture(scope="session")
def tiny_teacher(make_gemma: Callable[..., Gemma]) -> Gemma:
    """A random Gemma of 7 layers (the sixth is global) and 48 neurons, which no block of 32 divides; the others as of `make_gemma`."""
    return make_gemma(num_layers=7, intermediate_dim=48)


@pytest.fixture(scope="session")
def real_tokenizer() -> Tokenizer:
    """The tokenizer of `real_teacher`, in a second; use it only in tests marked `real_weights`."""
    return load_tokenizer("gguf:package")


@pytest.fixture(scope="session")
def real_teacher() -> Gemma:
    """Google's Gemma 3 270M in float32, 1.1 GB of memory; use it only in tests marked `real_weights`, and do not change it."""
    return load_teacher("gguf:package")
