"""Ten students that are broken on purpose and one that is not: none of the ten is blessed, and each refusal says why.

A small teacher learns a few sentences, and a student that goes on from there is as good. What is broken is then judged on the same
windows by what the Evaluator uses: the `eval` signature's sums, the metric and the judge; a file by parity.
"""

import pathlib
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma

from components.quality_gate.files import Exported
from components.quality_gate.judge import judge
from components.quality_gate.metrics import LanguageModelMetrics
from components.quality_gate.results import OVERALL
from gemma_tf_distill.config import GatesConfig, QuantizationConfig
from gemma_tf_distill.data.examples import scored_example
from gemma_tf_distill.data.packing import pack
from gemma_tf_distill.export.parity.measure import measure_parity
from gemma_tf_distill.export.saved_model import export_saved_model
from gemma_tf_distill.export.token_sums import token_sums
from gemma_tf_distill.gemma.functional import shape_of, weights_of
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.apply import fake_quantized
from gemma_tf_distill.teacher.targets import TargetScorer
from tests.conftest import SENTENCES

WINDOW, TOP_K = 24, 8
GATES = GatesConfig(max_perplexity_vs_teacher=1.03, max_kl_to_teacher=0.1, min_top1_agreement=0.9, min_top5_agreement=0.95)
Weights = list[np.ndarray]


class School:
    """One model that is trained again and again from given weights, so that its step is traced once."""

    def __init__(self, gemma: Gemma):
        self.gemma = gemma
        documents = [gemma.tokenizer.encode(text) for text in SENTENCES]
        self.windows = np.stack(list(pack(documents, WINDOW))).astype(np.int32)
        variables = gemma.backbone.trainable_variables
        self._slots = [tf.Variable(tf.zeros_like(variable)) for variable in (*variables, *variables)]
        self._steps = tf.Variable(0.0)

    @tf.function(autograph=False)
    def _step(self, inputs: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor) -> None:
        """One step of Adam (Kingma & Ba 2015)."""
        variables = self.gemma.backbone.trainable_variables
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(labels, self.gemma.logits(inputs), from_logits=True)
            mask = tf.cast(labels > 2, tf.float32)
            loss = tf.reduce_sum(losses * mask) / tf.reduce_sum(mask)
        self._steps.assign_add(1.0)
        for place, gradient in enumerate(tape.gradient(loss, [variable.value for variable in variables])):
            mean, square = self._slots[place], self._slots[place + len(variables)]
            mean.assign(0.9 * mean + 0.1 * gradient)
            square.assign(0.99 * square + 0.01 * gradient**2)
            scale = tf.sqrt(1 - 0.99**self._steps) / (1 - 0.9**self._steps)
            variables[place].assign_sub(learning_rate * scale * mean / (tf.sqrt(square) + 1e-6))

    def train(self, weights: Weights, inputs: np.ndarray, labels: np.ndarray, steps: int, learning_rate: float = 1e-2) -> Weights:
        """Weights after some steps on the whole of inputs and labels int32 [B, N]."""
        self.gemma.backbone.set_weights(weights)
        for variable in (*self._slots, self._steps):
            variable.assign(tf.zeros_like(variable))
        for _ in range(steps):
            self._step(tf.constant(inputs), tf.constant(labels), tf.constant(learning_rate))
        return self.gemma.backbone.get_weights()


@pytest.fixture(scope="module")
def school(make_gemma) -> School:
    return School(make_gemma())


@pytest.fixture(scope="module")
def untrained(school) -> Weights:
    return [weight.copy() for weight in school.gemma.backbone.get_weights()]


@pytest.fixture(scope="module")
def taught(school, untrained) -> Weights:
    """The teacher's weights."""
    return school.train(untrained, school.windows[:, :-1], school.windows[:, 1:], 150)


@pytest.fixture(scope="module")
def verdict(school, taught) -> Callable[..., dict[str, str]]:
    """What is wrong with a model, in words by gate."""
    gemma, windows = school.gemma, school.windows
    gemma.backbone.set_weights(taught)
    targets = TargetScorer(gemma, top_k=TOP_K)(tf.constant(windows))
    examples = [
        scored_example(window, b"any", *(target[row].numpy() for target in targets)).SerializeToString()
        for row, window in enumerate(windows)
    ]
    shape, byte_lengths = shape_of(gemma), tf.constant(gemma.tokenizer.byte_lengths())
    measure = tf.function(lambda weights: token_sums(shape, weights, tf.constant(examples), byte_lengths, WINDOW, TOP_K), autograph=False)

    def words(weights: Weights, failures: list[str] | None = None) -> dict[str, str]:
        gemma.backbone.set_weights(weights)
        sums = measure({name: tf.constant(value) for name, value in weights_of(gemma).items()})
        [computation] = LanguageModelMetrics().computations(model_names=[""])
        accumulator = computation.combiner.create_accumulator()
        for row in range(len(windows)):
            predictions = {name: value.numpy()[row] for name, value in sums.items()}
            computation.combiner.add_input(accumulator, tfma.metrics.StandardMetricInputs({"predictions": predictions}))
        found = {key.name: value for key, value in computation.combiner.extract_output(accumulator).items()}
        results = judge(GATES, {OVERALL: found}, Exported(figures={}, failures=failures or []))
        return {result.gate: result.words for result in results if not result.held}

    return words


@pytest.fixture(scope="module")
def student(school, taught) -> Weights:
    """A good one."""
    return school.train(taught, school.windows[:, :-1], school.windows[:, 1:], 20, 1e-3)


def changed(school: School, weights: Weights, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Weights:
    """Weights of which those whose path holds `name` are changed."""
    paths = [variable.path for variable in school.gemma.backbone.weights]
    chosen = [name in path for path in paths]
    assert any(chosen), paths
    return [change(weight) if here else weight for weight, here in zip(weights, chosen, strict=True)]


def shuffled_layers(school: School, weights: Weights) -> Weights:
    paths = [variable.path for variable in school.gemma.backbone.weights]
    other = {"decoder_block_0": "decoder_block_1", "decoder_block_1": "decoder_block_0"}
    swapped = [next((path.replace(a, b) for a, b in other.items() if a in path), path) for path in paths]
    return [weights[paths.index(path)] for path in swapped]


def in_int4(school: School, weights: Weights) -> Weights:
    school.gemma.backbone.set_weights(weights)
    return fake_quantized(school.gemma, QuantizationConfig(scheme="int4_channel")).backbone.get_weights()


def after_the_wrong_labels(school: School, weights: Weights) -> Weights:
    windows = school.windows
    return school.train(weights, windows[:, :-1], np.pad(windows[:, 2:], [[0, 0], [0, 1]]), 60)


def without_bos(school: School, weights: Weights) -> Weights:
    text = school.windows[school.windows > 2]
    windows = text[: len(text) // WINDOW * WINDOW].reshape(-1, WINDOW)
    windows = np.resize(windows, school.windows.shape)
    return school.train(weights, windows[:, :-1], windows[:, 1:], 150)


def permuted(rows: np.ndarray) -> np.ndarray:
    return rows[np.random.default_rng(5).permutation(len(rows))]


def not_a_number(values: np.ndarray) -> np.ndarray:
    return np.full_like(values, np.nan)


BROKEN: dict[str, Callable[[School, Weights, Weights], Weights]] = {
    "untrained": lambda school, untrained, student: untrained,
    "wrong tokenizer": lambda school, untrained, student: changed(school, student, "token_embedding", permuted),
    "shuffled layers": lambda school, untrained, student: shuffled_layers(school, student),
    # As llama.cpp stores them, one more than KerasHub wants.
    "unnormalised norms": lambda school, untrained, student: changed(school, student, "norm", lambda scale: scale + 1),
    "NaN in one layer": lambda school, untrained, student: changed(school, student, "decoder_block_1/ffw_gating/", not_a_number),
    "int4 per channel without training": lambda school, untrained, student: in_int4(school, student),
    "one layer zeroed": lambda school, untrained, student: changed(school, student, "decoder_block_0/", np.zeros_like),
    "off-by-one labels": lambda school, untrained, student: after_the_wrong_labels(school, student),
    "trained without BOS": lambda school, untrained, student: without_bos(school, untrained),
}


def test_the_good_student_is_blessed(verdict, student):
    assert verdict(student) == {}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_student_is_not_blessed(school, verdict, untrained, student, how):
    failures = verdict(BROKEN[how](school, untrained, student))
    assert "max_perplexity_vs_teacher" in failures, failures
    assert failures["max_perplexity_vs_teacher"].startswith("perplexity_vs_teacher is ")
    assert ("tokens" in failures) == (how == "NaN in one layer")


def test_a_truncated_file_is_not_blessed(school, verdict, student, tmp_path):
    school.gemma.backbone.set_weights(student)
    path = tmp_path / "saved_model"
    export_saved_model(school.gemma, str(path), context_length=64, max_new_tokens=4, window=WINDOW, top_k=TOP_K)
    [data] = pathlib.Path(path).glob("variables/variables.data-*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    report = measure_parity({"saved_model": str(path)}, school.gemma, school.windows, max_new_tokens=4)
    failures = verdict(student, report.failures)
    assert set(failures) == {"parity"}
    assert str(path) in failures["parity"] and "damaged" in failures["parity"]
