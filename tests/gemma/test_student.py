"""Students: exact copies of layers and rows, the local/global pattern, and fresh models."""

import keras_hub
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_tf_distill.config import StudentConfig, StudentSizes
from gemma_tf_distill.errors import ConfigError, WeightsError
from gemma_tf_distill.gemma.model import Gemma, is_local
from gemma_tf_distill.gemma.student import build_student, check_layers, trim_teacher
from gemma_tf_distill.gemma.vocabulary import Vocabulary, full_vocabulary, trim_vocabulary

SIZES = StudentSizes(
    num_layers=2, hidden_dim=16, intermediate_dim=24, num_query_heads=2, num_key_value_heads=1, head_dim=4, sliding_window_size=8
)


@pytest.fixture(scope="module")
def vocabulary(tiny_teacher) -> Vocabulary:
    ids = tiny_teacher.tokenizer.encode("the mean of the values along an axis")
    return trim_vocabulary(tiny_teacher.tokenizer, dict.fromkeys(ids, 1))


def token_ids(vocabulary: Vocabulary, length: int = 24) -> np.ndarray:
    """[2, length] ids of the vocabulary that begin with <bos>; longer than the tiny teacher's window of 16."""
    ids = np.random.default_rng(1).integers(3, len(vocabulary.kept_ids), (2, length))
    ids[:, 0] = 2
    return ids


def test_all_layers_and_all_words_are_the_teacher(tiny_teacher):
    vocabulary = full_vocabulary(tiny_teacher.tokenizer)
    student = build_student(StudentConfig(), tiny_teacher, vocabulary, seed=0)
    ids = token_ids(vocabulary)
    np.testing.assert_array_equal(student.logits(ids), tiny_teacher.logits(ids))
    assert student.parameters == tiny_teacher.parameters
    assert student.backbone is not tiny_teacher.backbone


def test_a_trimmed_teacher_has_the_teachers_logits_at_the_kept_words(tiny_teacher, vocabulary):
    trimmed = trim_teacher(tiny_teacher, vocabulary)
    ids = token_ids(vocabulary)
    expected = tiny_teacher.logits(vocabulary.kept_ids[ids]).numpy()[..., vocabulary.kept_ids]
    # The same sums, in a matrix product of another width.
    np.testing.assert_allclose(trimmed.logits(ids), expected, atol=1e-5)
    assert trimmed.tokenizer == vocabulary.tokenizer
    lost = tiny_teacher.backbone.vocabulary_size - len(vocabulary.kept_ids)
    assert trimmed.parameters == tiny_teacher.parameters - lost * 32


def test_kept_layers_are_copied_exactly_and_the_teacher_stays_as_it_was(tiny_teacher, vocabulary):
    before = [np.array(weight) for weight in tiny_teacher.backbone.weights]
    layers = (0, 2, 3, 6)
    student = build_student(StudentConfig(layers=layers), tiny_teacher, vocabulary, seed=0)
    for place, layer in enumerate(layers):
        theirs, ours = tiny_teacher.backbone.transformer_layers[layer], student.backbone.transformer_layers[place]
        for mine, other in zip(ours.weights, theirs.weights, strict=True):
            np.testing.assert_array_equal(mine, other)
    np.testing.assert_array_equal(
        student.backbone.token_embedding.embeddings, np.array(tiny_teacher.backbone.token_embedding.embeddings)[vocabulary.kept_ids]
    )
    np.testing.assert_array_equal(student.backbone.layer_norm.scale, tiny_teacher.backbone.layer_norm.scale)
    for weight in student.backbone.weights:
        weight.assign(weight + 1)
    for weight, value in zip(tiny_teacher.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_student_keeps_the_teachers_other_settings(tiny_teacher, vocabulary):
    student = build_student(StudentConfig(layers=(0,)), tiny_teacher, vocabulary, seed=0, dtype="mixed_bfloat16")
    different = {"num_layers", "vocabulary_size", "name", "dtype"}
    assert {k: v for k, v in student.config.items() if k not in different} == {
        k: v for k, v in tiny_teacher.config.items() if k not in different
    }
    assert student.backbone.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in student.backbone.weights} == {"float32"}


def test_a_saved_student_loads_as_it_was(tiny_teacher, vocabulary, tmp_path):
    student = build_student(StudentConfig(layers=(1, 3)), tiny_teacher, vocabulary, seed=0)
    student.save(tmp_path / "student")
    loaded = Gemma.load(tmp_path / "student")
    ids = token_ids(vocabulary)
    np.testing.assert_array_equal(loaded.logits(ids), student.logits(ids))
    task = keras_hub.models.Gemma3CausalLM.from_preset(str(tmp_path / "student"), dtype="float32")
    text = "the mean  of\n漢"
    assert np.asarray(task.preprocessor.tokenizer(text)).tolist() == vocabulary.tokenizer.encode(text)


def test_sizes_make_a_fresh_seeded_student(tiny_teacher, vocabulary):
    config = StudentConfig(sizes=SIZES)
    student, again, other = (build_student(config, tiny_teacher, vocabulary, seed) for seed in (7, 7, 8))
    assert student.backbone.vocabulary_size == len(vocabulary.kept_ids)
    assert (student.backbone.num_layers, student.backbone.hidden_dim, student.config["sliding_window_size"]) == (2, 16, 8)
    assert student.config["use_sliding_window_attention"]
    assert student.config["use_post_ffw_norm"]
    ids = token_ids(vocabulary)
    np.testing.assert_array_equal(student.logits(ids), again.logits(ids))
    assert np.abs(student.logits(ids) - other.logits(ids)).max() > 1e-3


def test_a_preset_gives_its_sizes(tiny_teacher, vocabulary):
    student = build_student(StudentConfig(preset="gemma3_270m"), tiny_teacher, vocabulary, seed=0)
    # The 270M has 100,326,016 weights beside its embedding of 262,144 × 640.
    assert student.parameters == 100_326_016 + 640 * len(vocabulary.kept_ids)
    with pytest.raises(WeightsError, match=r"student\.preset: preset 'gemma3_270' .* did you mean gemma3_270m"):
        build_student(StudentConfig(preset="gemma3_270"), tiny_teacher, vocabulary, seed=0)


def test_a_vocabulary_of_another_teacher_is_refused(tiny_teacher, vocabulary):
    shifted = Vocabulary(vocabulary.kept_ids + np.int32(1), vocabulary.proto)
    for config in (StudentConfig(), StudentConfig(sizes=SIZES)):
        with pytest.raises(WeightsError, match="another teacher"):
            build_student(config, tiny_teacher, shifted, seed=0)
    beyond = Vocabulary(vocabulary.kept_ids + np.int32(1000), vocabulary.proto)
    with pytest.raises(WeightsError, match="another teacher"):
        trim_teacher(tiny_teacher, beyond)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 5, 6], r"global layer 5 in place 1, which is local .*: try \[0, 4, 6\]"),
        ([0, 1, 2, 3, 4, 6], r"local layer 6 in place 5, which is global .*: try \[0, 1, 2, 3, 4, 5\]"),
        ([0, 18], r"layer 18, but the teacher has layers 0 to 17: try \[0, 16\]"),
        (list(range(20)), "layer 18, but the teacher has layers 0 to 17: keep at most 18"),
    ],
)
def test_layers_that_break_the_pattern(layers, message):
    with pytest.raises(ConfigError, match=message):
        check_layers(layers, 18)


def test_build_student_checks_the_layers(tiny_teacher, vocabulary):
    with pytest.raises(ConfigError, match="global layer 5 in place 0, which is local"):
        build_student(StudentConfig(layers=(5,)), tiny_teacher, vocabulary, seed=0)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=18, unique=True).map(sorted))
def test_the_proposed_subset_works_and_is_never_asked_for_without_need(layers):
    def kind(index: int) -> bool:
        return is_local(index, {"use_sliding_window_attention": True})

    works = max(layers) < 18 and all(kind(layer) == kind(place) for place, layer in enumerate(layers))
    try:
        check_layers(layers, 18)
        assert works
    except ConfigError as error:
        assert not works
        proposal = [int(word) for word in str(error).rpartition("[")[2].rstrip("]").split(",")]
        assert len(proposal) == len(layers)
        check_layers(proposal, 18)
