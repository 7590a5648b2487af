"""The tokenizer: special ids, white space, bytes, batches, KerasHub's layer, and the real Gemma's ids."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.gemma.tokenizer import Tokenizer
from gemma_tf_distill.gemma.vocabulary import trim_vocabulary

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=80)


def test_special_ids(tiny_tokenizer):
    assert (tiny_tokenizer.pad_id, tiny_tokenizer.eos_id, tiny_tokenizer.bos_id, tiny_tokenizer.unk_id) == (0, 1, 2, 3)
    assert tiny_tokenizer.encode("<start_of_turn>") == [tiny_tokenizer.id_of("<start_of_turn>")]
    assert tiny_tokenizer.decode([2, *tiny_tokenizer.encode("the"), 1, 0]) == "the"


def test_pieces_and_ids(tiny_tokenizer):
    for token_id in range(tiny_tokenizer.vocabulary_size):
        assert tiny_tokenizer.id_of(tiny_tokenizer.piece(token_id)) == token_id
    assert tiny_tokenizer.id_of("no such piece") is None
    with pytest.raises(IndexError, match="between 0 and 419, not 420"):
        tiny_tokenizer.piece(420)


@given(texts)
def test_text_comes_back(tiny_tokenizer, text):
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text


@given(st.lists(texts, max_size=4))
def test_batches_are_encoded_as_single_texts_are(tiny_tokenizer, batch):
    assert tiny_tokenizer.encode_batch(batch) == [tiny_tokenizer.encode(text) for text in batch]


def test_numpy_ids_are_decoded(tiny_tokenizer):
    assert tiny_tokenizer.decode(np.array(tiny_tokenizer.encode("the mean"), np.int64)) == "the mean"


def test_pickling(tiny_tokenizer):
    copy = pickle.loads(pickle.dumps(tiny_tokenizer))
    assert copy == tiny_tokenizer
    assert hash(copy) == hash(tiny_tokenizer)
    assert copy.encode("the mean") == tiny_tokenizer.encode("the mean")
    assert tiny_tokenizer != trim_vocabulary(tiny_tokenizer, {}).tokenizer


@given(texts)
def test_kerashubs_layer_gives_the_same_ids(tiny_tokenizer, text):
    layer = tiny_tokenizer.keras_hub()
    assert np.asarray(layer(text)).tolist() == tiny_tokenizer.encode(text)


@pytest.mark.parametrize("proto", [b"", b"not a proto", b"\x00" * 100])
def test_what_is_not_a_sentencepiece_model_is_refused(proto):
    with pytest.raises(WeightsError, match="not a SentencePiece model"):
        Tokenizer(proto)


def test_another_models_tokenizer_is_refused(tiny_tokenizer):
    with pytest.raises(WeightsError, match="no <pad> among its 420 pieces"):
        Tokenizer(tiny_tokenizer.proto.replace(b"<pad>", b"<PAD>"))


@pytest.mark.real_weights
@pytest.mark.parametrize(
    ("text", "ids"),
    # As llama.cpp (build 11739) gives them for the same file, special tokens parsed.
    [
        ("The quick brown fox", [818, 3823, 8864, 37423]),
        ("\n\n\n", [109]),
        ("def f(x):\n    return x", [2063, 517, 236769, 236781, 1473, 107, 140, 2060, 1123]),
        ("  ", [138]),
        (" " * 40, [167, 145]),
        ("\t\t", [255969]),
        ("<start_of_turn>user\n", [105, 2364, 107]),
        ("漢字🙂", [201637, 240731]),
        ("\U0010ffff", [482, 381, 429, 429]),
    ],
)
def test_ids_of_the_real_tokenizer(real_tokenizer, text, ids):
    assert real_tokenizer.encode(text) == ids
    assert real_tokenizer.decode(ids) == text
