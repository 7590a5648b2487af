"""Trimming: the corpus is segmented as before, everything else still comes back as it was."""

import ast
import collections
import hashlib
import pathlib
import random
import sysconfig

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from gemma_tf_distill.errors import ConfigError, WeightsError
from gemma_tf_distill.gemma.tokenizer import Tokenizer
from gemma_tf_distill.gemma.vocabulary import SPECIAL_PIECES, Vocabulary, full_vocabulary, trim_vocabulary

NORMAL = sentencepiece_model_pb2.ModelProto.SentencePiece.NORMAL
UNUSED = sentencepiece_model_pb2.ModelProto.SentencePiece.UNUSED

LEAST = 256 + len(SPECIAL_PIECES)

ODD_TEXTS = [
    "",
    " ",
    "    four, then\ttab\t\tand\n\n\nlines \r\n end   ",
    "naïve café — “quotes” … 1½ ∑∫ ≤≥",
    "漢字かな交じり文。한국어 العربية עברית हिन्दी ไทย",
    "emoji 🙂👩‍👩‍👧‍👦🇨🇭 and \U0010ffff \u200b\ufeff",
    "\x00\x01\x7f control",
    "<start_of_turn>user\nHi<end_of_turn>\n<bos><eos><pad><unk><0x41>",
    "x" * 300 + " " * 77 + "\n" * 40,
]

# SentencePiece itself reads ▁ as a space; lone surrogates are not text.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60)
english = st.lists(
    st.sampled_from(
        ["the ", "values ", "mean", " of", "array", "\n", "\n\n", "    ", "  ", "ing ", "<start_of_turn>", "Returns ", "é", "19", "漢"]
    ),
    max_size=30,
).map("".join)


def count(tokenizer: Tokenizer, corpus: list[str]) -> collections.Counter[int]:
    return collections.Counter(token for ids in tokenizer.encode_batch(corpus) for token in ids)


def assert_same_segmentation(tokenizer: Tokenizer, vocabulary: Vocabulary, corpus: list[str]) -> None:
    for text, teacher_ids, student_ids in zip(
        corpus, tokenizer.encode_batch(corpus), vocabulary.tokenizer.encode_batch(corpus), strict=True
    ):
        assert vocabulary.kept_ids[student_ids].tolist() == teacher_ids, text


@given(corpus=st.lists(english | texts, max_size=6), other=english | texts)
def test_the_corpus_is_segmented_as_before_and_other_text_comes_back(tiny_tokenizer, corpus, other):
    vocabulary = trim_vocabulary(tiny_tokenizer, count(tiny_tokenizer, corpus))
    assert_same_segmentation(tiny_tokenizer, vocabulary, corpus)
    assert vocabulary.tokenizer.decode(vocabulary.tokenizer.encode(other)) == other


@given(corpus=st.lists(english, min_size=1, max_size=6), size=st.integers(LEAST, LEAST + 80), other=texts)
def test_a_size_is_kept_to_and_text_still_comes_back(tiny_tokenizer, corpus, size, other):
    counts = count(tiny_tokenizer, corpus)
    everything = trim_vocabulary(tiny_tokenizer, counts)
    vocabulary = trim_vocabulary(tiny_tokenizer, counts, size)
    assert len(vocabulary.kept_ids) <= size
    assert set(vocabulary.kept_ids.tolist()) <= set(everything.kept_ids.tolist())
    # One more word may need several ancestors, so the last places may stay free; never as many as the longest word has characters.
    longest = max(len(tiny_tokenizer.piece(token)) for token in counts) if counts else 0
    assert len(vocabulary.kept_ids) >= min(size, len(everything.kept_ids)) - 2 * longest
    for text in [*corpus, other]:
        assert vocabulary.tokenizer.decode(vocabulary.tokenizer.encode(text)) == text


def test_the_most_frequent_words_come_first(tiny_tokenizer):
    frequent, rare = tiny_tokenizer.id_of("▁the"), tiny_tokenizer.id_of("ng")
    needed = len(trim_vocabulary(tiny_tokenizer, {frequent: 1}).kept_ids)
    kept = trim_vocabulary(tiny_tokenizer, {rare: 1, frequent: 9}, needed).kept_ids
    assert frequent in kept
    assert rare not in kept
    # Where the frequent word does not fit with its ancestors, the rare one, which needs fewer, still does.
    alone = len(trim_vocabulary(tiny_tokenizer, {rare: 1}).kept_ids)
    assert alone < needed
    assert rare in trim_vocabulary(tiny_tokenizer, {rare: 1, frequent: 9}, alone).kept_ids


def test_specials_bytes_scores_and_types_are_the_teachers(tiny_tokenizer):
    vocabulary = trim_vocabulary(tiny_tokenizer, count(tiny_tokenizer, ["the values\n\n  of"]))
    assert [vocabulary.tokenizer.id_of(piece) for piece in SPECIAL_PIECES[:4]] == [0, 1, 2, 3]
    assert None not in [vocabulary.tokenizer.id_of(piece) for piece in SPECIAL_PIECES]
    assert None not in [vocabulary.tokenizer.id_of(f"<0x{byte:02X}>") for byte in range(256)]
    teacher = sentencepiece_model_pb2.ModelProto.FromString(tiny_tokenizer.proto)
    student = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.proto)
    assert list(student.pieces) == [teacher.pieces[index] for index in vocabulary.kept_ids]
    assert student.normalizer_spec == teacher.normalizer_spec
    assert student.trainer_spec.vocab_size == len(student.pieces)
    assert vocabulary.kept_ids.dtype == np.int32


def test_a_size_below_specials_and_bytes_is_refused(tiny_tokenizer):
    assert len(trim_vocabulary(tiny_tokenizer, {}, LEAST).kept_ids) == LEAST
    with pytest.raises(ConfigError, match=f"student.vocabulary must be at least {LEAST}, .*, not {LEAST - 1}$"):
        trim_vocabulary(tiny_tokenizer, {}, LEAST - 1)


def with_pieces(tokenizer: Tokenizer, pieces: dict[str, tuple[float, int]]) -> Tokenizer:
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.proto)
    for piece, (score, kind) in pieces.items():
        model.pieces.add(piece=piece, score=score, type=kind)
    return Tokenizer(model.SerializeToString())


def test_merges_of_a_high_score_come_first(tiny_tokenizer):
    tokenizer = with_pieces(
        tiny_tokenizer, {"qj": (-1, NORMAL), "jz": (-2, NORMAL), "qjz": (-3, NORMAL), "zz": (-4, NORMAL), "zzz": (-5, NORMAL)}
    )
    assert tokenizer.encode("qjzzzz") == [tokenizer.id_of("qjz"), tokenizer.id_of("zzz")]
    kept = trim_vocabulary(tokenizer, {tokenizer.id_of("qjz"): 1}).tokenizer
    assert [kept.id_of(piece) is not None for piece in ("q", "j", "z", "qj", "qjz", "jz")] == [True, True, True, True, True, False]
    kept = trim_vocabulary(tokenizer, {tokenizer.id_of("zzz"): 1}).tokenizer
    assert [kept.id_of(piece) is not None for piece in ("z", "zz", "zzz", "jz")] == [True, True, True, False]


def test_unused_pieces_still_keep_their_parts_from_others(tiny_tokenizer):
    """SentencePiece merges q and j into the unused piece and splits it again afterwards, when z has gone its way."""
    tokenizer = with_pieces(tiny_tokenizer, {"qj": (-1, UNUSED), "jz": (-2, NORMAL)})
    corpus = ["qjz", "jz"]
    assert [[tokenizer.piece(i) for i in ids] for ids in tokenizer.encode_batch(corpus)] == [["q", "j", "z"], ["jz"]]
    assert_same_segmentation(tokenizer, trim_vocabulary(tokenizer, count(tokenizer, corpus)), corpus)


def test_a_full_vocabulary_is_the_teachers(tiny_tokenizer):
    vocabulary = full_vocabulary(tiny_tokenizer)
    assert vocabulary.tokenizer == tiny_tokenizer
    np.testing.assert_array_equal(vocabulary.kept_ids, np.arange(tiny_tokenizer.vocabulary_size))


def test_saving_and_loading(tiny_tokenizer, tmp_path):
    vocabulary = trim_vocabulary(tiny_tokenizer, count(tiny_tokenizer, ["the values"]))
    vocabulary.save(tmp_path / "vocabulary")
    loaded = Vocabulary.load(tmp_path / "vocabulary")
    assert loaded.proto == vocabulary.proto
    np.testing.assert_array_equal(loaded.kept_ids, vocabulary.kept_ids)
    assert loaded.kept_ids.dtype == np.int32

    model = tmp_path / "vocabulary" / "tokenizer.model"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"tokenizer\.model is damaged"):
        Vocabulary.load(tmp_path / "vocabulary")
    with pytest.raises(WeightsError, match="there is no folder"):
        Vocabulary.load(tmp_path / "elsewhere")


def test_ids_that_do_not_fit_the_tokenizer_are_refused(tiny_tokenizer):
    with pytest.raises(WeightsError, match="420 pieces"):
        Vocabulary(np.arange(419, dtype=np.int32), tiny_tokenizer.proto)


def installed_docstrings(limit: int) -> list[str]:
    """Docstrings of installed packages, the same for the same environment."""
    found: dict[str, None] = {}
    packages = pathlib.Path(sysconfig.get_paths()["purelib"])
    files = sorted(file for package in ("numpy/lib", "keras/src", "keras_hub/src") for file in (packages / package).rglob("*.py"))
    files = [file for file in files if "test" not in file.name]
    random.Random(0).shuffle(files)
    for file in files:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and len(text := ast.get_docstring(node) or "") > 100:
                found[text.replace("▁", " ")] = None
        if len(found) >= limit:
            break
    return sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())[:limit]


@pytest.mark.real_weights
def test_docstrings_with_the_real_tokenizer(real_tokenizer):
    docstrings = installed_docstrings(2400)
    assert len(docstrings) == 2400
    train, rest = docstrings[:2000], docstrings[2000:]
    counts = count(real_tokenizer, train)
    vocabulary = trim_vocabulary(real_tokenizer, counts)
    assert len(counts) <= len(vocabulary.kept_ids) < 2 * len(counts) + LEAST
    assert_same_segmentation(real_tokenizer, vocabulary, train)
    for text in rest + ODD_TEXTS:
        assert vocabulary.tokenizer.decode(vocabulary.tokenizer.encode(text)) == text

    small = trim_vocabulary(real_tokenizer, counts, 2000)
    assert 1990 <= len(small.kept_ids) <= 2000
    for text in rest[:200] + ODD_TEXTS:
        assert small.tokenizer.decode(small.tokenizer.encode(text)) == text
