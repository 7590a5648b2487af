"""What the Evaluator says of a real exported model, beside a plain recomputation in float64 from KerasHub's logits."""

import math
import shutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma

from components.quality_gate.metrics import METRICS, LanguageModelMetrics
from components.quality_gate.results import OVERALL, read_gates, read_metrics
from gemma_tf_distill.config import GatesConfig, StudentConfig
from gemma_tf_distill.data.examples import scored_example
from gemma_tf_distill.data.packing import pack
from gemma_tf_distill.export.saved_model import export_saved_model
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.student import build_student
from gemma_tf_distill.gemma.vocabulary import trim_vocabulary
from tests.conftest import SENTENCES

WINDOW, TOP_K, CONTEXT, SHORT_CONTEXT = 24, 8, 64, 24


class Scored(NamedTuple):
    """A window: its tokens, what teacher and student say of them, and the example that holds tokens and teacher."""

    source: str
    tokens: np.ndarray
    teacher_ids: np.ndarray
    teacher_log_probs: np.ndarray
    label_log_prob: np.ndarray
    student_log_probs: np.ndarray
    example: bytes


def log_probs_of(gemma: Gemma, tokens: np.ndarray) -> np.ndarray:
    """float64 [N, V]."""
    logits = gemma.logits(tokens[np.newaxis, :-1]).numpy()[0].astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def scored(teacher: Gemma, student: Gemma, source: str, tokens: np.ndarray) -> Scored:
    log_probs = log_probs_of(teacher, tokens)
    ids = np.argsort(-log_probs, axis=-1)[:, :TOP_K]
    top = np.take_along_axis(log_probs, ids, -1).astype(np.float16)
    label = log_probs[np.arange(len(tokens) - 1), tokens[1:]]
    example = scored_example(tokens, source.encode(), ids, top, label).SerializeToString()
    return Scored(source, tokens, ids, top.astype(np.float64), label, log_probs_of(student, tokens), example)


def recomputed(student: Gemma, windows: Sequence[Scored]) -> dict[str, float]:
    """Every metric, token by token."""
    nll, teacher_nll, kl, top1, top5, tokens = 0.0, 0.0, 0.0, 0, 0, 0
    size = sum(len(text.encode()) for text in documents(student, windows))
    bins: dict[str, list[list[float]]] = {"student": [[] for _ in range(15)], "teacher": [[] for _ in range(15)]}
    for window in windows:
        for place, label in enumerate(window.tokens[1:]):
            if label in (student.tokenizer.pad_id, student.tokenizer.bos_id):
                continue
            row, ids, teacher = window.student_log_probs[place], window.teacher_ids[place], window.teacher_log_probs[place]
            tokens += 1
            nll -= row[label]
            teacher_nll -= window.label_log_prob[place]
            probabilities, student_probabilities = np.exp(teacher), np.exp(row[ids])
            tail, student_tail = 1 - probabilities.sum(), 1 - student_probabilities.sum()
            kl += (probabilities * np.log(probabilities / student_probabilities)).sum() + tail * math.log(tail / student_tail)
            order = np.argsort(-row)
            top1 += order[0] == ids[0]
            top5 += ids[0] in order[:5]
            for who, confidence, best in (("student", math.exp(row.max()), order[0]), ("teacher", math.exp(teacher[0]), ids[0])):
                bins[who][max(math.ceil(confidence * 15) - 1, 0)].append((best == label) - confidence)
    errors = {who: sum(abs(sum(gaps)) for gaps in of_model) / tokens for who, of_model in bins.items()}
    return {
        "heldout_nll": nll / tokens,
        "perplexity": math.exp(nll / tokens),
        "bits_per_byte": nll / math.log(2) / size,
        "kl_to_teacher": kl / tokens,
        "top1_agreement": top1 / tokens,
        "top5_agreement": top5 / tokens,
        "ece": errors["student"],
        "perplexity_vs_teacher": math.exp(nll / tokens) / math.exp(teacher_nll / tokens),
        "teacher_heldout_nll": teacher_nll / tokens,
        "teacher_perplexity": math.exp(teacher_nll / tokens),
        "teacher_bits_per_byte": teacher_nll / math.log(2) / size,
        "teacher_ece": errors["teacher"],
        "tokens": tokens,
    }


@pytest.fixture(scope="module")
def teacher(make_gemma) -> Gemma:
    return make_gemma(1, num_layers=1)


@pytest.fixture(scope="module")
def student(make_gemma) -> Gemma:
    return make_gemma(0, num_layers=1)


@pytest.fixture(scope="module")
def windows(teacher, student) -> list[Scored]:
    """Windows of two sources, the last of each padded."""
    texts = {"docs": SENTENCES[:5], "novels": SENTENCES[5:]}
    packed = {source: pack([teacher.tokenizer.encode(text) for text in texts[source]], WINDOW) for source in texts}
    return [scored(teacher, student, source, tokens) for source, of_source in packed.items() for tokens in of_source]


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("student") / "saved_model")
    export_saved_model(student, path, context_length=CONTEXT, max_new_tokens=4, window=WINDOW, top_k=TOP_K)
    return path


@pytest.fixture(scope="module")
def of_other_words(teacher, tmp_path_factory) -> tuple[Gemma, str]:
    """A model of fewer words, and its SavedModel, which reads less at once than some windows' texts are in its words."""
    vocabulary = trim_vocabulary(teacher.tokenizer, dict.fromkeys(teacher.tokenizer.encode("Returns the mean of the values."), 1))
    gemma = build_student(StudentConfig(layers=(0,)), teacher, vocabulary, seed=0)
    path = str(tmp_path_factory.mktemp("other") / "saved_model")
    export_saved_model(gemma, path, context_length=SHORT_CONTEXT, max_new_tokens=4, window=WINDOW, top_k=TOP_K)
    return gemma, path


def bits_per_byte(gemma: Gemma, texts: Sequence[str]) -> float:
    nats = 0.0
    for text in texts:
        ids = np.array([gemma.tokenizer.bos_id, *gemma.tokenizer.encode(text)])
        nats -= log_probs_of(gemma, ids)[np.arange(len(ids) - 1), ids[1:]].sum()
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def documents(gemma: Gemma, windows: Sequence[Scored]) -> list[str]:
    tokenizer = gemma.tokenizer
    texts = []
    for window in windows:
        parts: list[list[int]] = []
        for token in window.tokens.tolist():
            if token == tokenizer.bos_id:
                parts.append([])
            elif token not in (tokenizer.pad_id, tokenizer.eos_id):
                parts[-1].append(token)
        texts += [tokenizer.decode(part) for part in parts if part]
    return texts


def test_the_evaluators_figures_are_a_plain_recomputation(judge, student, windows, exported, of_other_words):
    other, other_path = of_other_words
    candidate, baseline = judge.artifact("candidate"), judge.artifact("baseline", tokenizer=other.tokenizer)
    for artifact, path in ((candidate, exported), (baseline, other_path)):
        shutil.copytree(path, artifact.uri + "/Format-Serving")
    gates = GatesConfig(max_heldout_nll=50.0, slices=("source", "length"), max_regression_vs_baseline=0.0)
    blessed, evaluation, _ = judge(gates, [window.example for window in windows], candidate, baseline)
    slices: dict[str, Callable[[Scored], bool]] = {
        OVERALL: lambda window: True,
        "source=docs": lambda window: window.source == "docs",
        "source=novels": lambda window: window.source == "novels",
        "length=1-16": lambda window: np.count_nonzero(window.tokens) <= 16,
        "length=17-32": lambda window: np.count_nonzero(window.tokens) > 16,
    }
    found = read_metrics(evaluation)
    assert set(found) == set(slices)
    for label, belongs in slices.items():
        expected = recomputed(student, [window for window in windows if belongs(window)])
        assert set(expected) == set(METRICS)
        assert {name: found[label][name] for name in METRICS} == pytest.approx(expected, rel=1e-4, abs=1e-4), label

    # The baseline can't read these tokens: both models are compared in bits a byte of the text that all of the two can read.
    texts = documents(student, windows)
    read = [text for text in texts if len(other.tokenizer.encode(text)) < SHORT_CONTEXT - 1]
    assert 0 < len(read) < len(texts)
    bits, baseline_bits = bits_per_byte(student, read), bits_per_byte(other, read)
    result = next(result for result in read_gates(evaluation) if result.gate == "max_regression_vs_baseline")
    assert (result.metric, result.got) == ("bits_per_byte", pytest.approx(bits / baseline_bits - 1, abs=1e-4))
    assert result.low < result.got < result.high
    assert result.held == (bits <= baseline_bits) == blessed
    assert f"another vocabulary, so that both were compared in bits per byte of {len(read)} texts ({bits:.4f} beside" in result.words
    assert f"{len(texts) - len(read)} texts are longer" in result.words


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(exported)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@hypothesis.settings(max_examples=5, deadline=None)
def test_so_they_are_for_any_tokens(student, teacher, loaded, seed, rows):
    random = np.random.default_rng(seed)
    # Words that are whole characters, so that what a window cuts off is none.
    words = [index for index, size in enumerate(student.tokenizer.byte_lengths()) if size and "<0x" not in student.tokenizer.piece(index)]
    drawn = []
    for _ in range(rows):
        tokens = np.array([student.tokenizer.bos_id, *random.choice(words, WINDOW - 1)])
        tokens[random.integers(2, WINDOW + 1) :] = student.tokenizer.pad_id
        drawn.append(scored(teacher, student, "any", tokens))
    sums = loaded.signatures["eval"](examples=tf.constant([window.example for window in drawn]))
    [computation] = LanguageModelMetrics().computations(model_names=[""])
    accumulator = computation.combiner.create_accumulator()
    for row in range(rows):
        predictions = {name: value.numpy()[row] for name, value in sums.items()}
        computation.combiner.add_input(accumulator, tfma.metrics.StandardMetricInputs({"predictions": predictions}))
    found = {key.name: value for key, value in computation.combiner.extract_output(accumulator).items()}
    assert {name: found[name] for name in METRICS} == pytest.approx(recomputed(student, drawn), rel=1e-4, abs=1e-4)
