"""Ten students that are broken on purpose and one that is not, from the Exporter to the page: none of the ten is pushed, and each says why.

A small teacher learns a few sentences, and a student that goes on from there is as good. Every student is exported by the Exporter, judged
by the Evaluator (TFMA on Beam) and given to the Pusher, as a pipeline does it. Two break what comes before: the Exporter refuses weights
that are no numbers, and a file that is cut short; then both are judged all the same, as if it had not looked.

    pytest -s tests/components/test_broken_students.py    # prints which gate caught what
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components import Student, Tokenizer
from components.exporter.component import exporter_config
from components.exporter.export import export
from components.pusher.executor import Executor as Pusher
from components.quality_gate.results import read_gates
from gemma_tf_distill.config import Config, GatesConfig, QuantizationConfig, config_from_dict
from gemma_tf_distill.data.examples import scored_example
from gemma_tf_distill.data.packing import pack
from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.export import bundle
from gemma_tf_distill.export.parity.report import ParityError
from gemma_tf_distill.export.saved_model import export_saved_model
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.apply import fake_quantized
from gemma_tf_distill.report.gates import GateResult
from gemma_tf_distill.report.page import render_page
from gemma_tf_distill.teacher.targets import TargetScorer
from tests.components.conftest import Judge
from tests.conftest import SENTENCES
from tests.report.conftest import REPORT, whole_content

WINDOW, TOP_K = 24, 8
GATES = GatesConfig(max_perplexity_vs_teacher=1.03, max_kl_to_teacher=0.1, min_top1_agreement=0.9, min_top5_agreement=0.95)
INT4 = {"scheme": "int4_channel"}
NAN, IN_INT4, TRUNCATED = "NaN in one layer", "int4 per channel without training", "truncated file"
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
    return fake_quantized(school.gemma, QuantizationConfig(**INT4)).backbone.get_weights()


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
    NAN: lambda school, untrained, student: changed(school, student, "decoder_block_1/ffw_gating/", not_a_number),
    IN_INT4: lambda school, untrained, student: in_int4(school, student),
    "one layer zeroed": lambda school, untrained, student: changed(school, student, "decoder_block_0/", np.zeros_like),
    "off-by-one labels": lambda school, untrained, student: after_the_wrong_labels(school, student),
    "trained without BOS": lambda school, untrained, student: without_bos(school, untrained),
}


class Road:
    """What follows a training: Exporter, Evaluator, Pusher and the page.

    Attributes:
      results: every gate of each student that was judged.
    """

    def __init__(self, folder: pathlib.Path, gemma: Gemma, windows: list[bytes]):
        self.folder, self.gemma, self.windows = folder, gemma, windows
        self.judge = Judge(folder, gemma.tokenizer)
        self.examples = self.judge.examples(windows)
        self.results: dict[str, list[GateResult]] = {}

    def config(self, quantization: dict | None = None) -> Config:
        files = {"formats": ["saved_model"], "prompts": [], "context_length": 64, "prefill_lengths": [8], "max_new_tokens": 4}
        return config_from_dict(
            {
                "name": "broken",
                "corpus": {"window": WINDOW},
                "distillation": {"top_k": TOP_K},
                "export": files,
                "gates": dataclasses.asdict(GATES),
                "quantization": quantization or {},
            }
        )

    def export(self, name: str, weights: Weights, quantization: dict | None = None) -> standard_artifacts.Model:
        """As the Exporter makes it of a folder of the Distiller's."""
        student = self.folder / f"{name} student"
        self.gemma.backbone.set_weights(weights)
        self.gemma.save(student / "student")
        metrics = {"tokens": {"train": 1, "heldout": 1}, "vocabulary": 420, "layers": 2, "parameters": 1, "heldout_nll_control": None}
        (student / "metrics.json").write_text(json.dumps(metrics))
        (student / "tokenizer.model").write_bytes(self.gemma.tokenizer.proto)
        model = standard_artifacts.Model()
        model.uri = str(self.folder / name)
        export(str(student), self.examples.uri, model.uri, exporter_config(self.config(quantization)))
        return model

    def go(self, name: str, model: standard_artifacts.Model) -> bool:
        """Evaluator and Pusher; whether the model was pushed."""
        blessed, evaluation, _ = self.judge(GATES, self.windows, model)
        inputs = {"model": model, "model_blessing": self.judge.outputs["blessing"], "model_evaluation": self.judge.outputs["evaluation"]}
        for kind, output in ((Student, "student"), (Tokenizer, "tokenizer")):
            inputs[output] = kind()
            inputs[output].uri = str(self.folder / f"{name} student")
        inputs["examples"] = self.examples
        pushed = standard_artifacts.PushedModel()
        pushed.uri = str(self.folder / f"{name} pushed_model")
        directory = self.folder / f"{name} pushed"
        Pusher().Do(
            {key: [artifact] for key, artifact in inputs.items()},
            {"pushed_model": [pushed]},
            {"push_directory": str(directory), "config": self.config().to_json(), "source_digest": "abc"},
        )
        is_pushed = pushed.get_int_custom_property("pushed") == 1
        assert is_pushed == directory.exists() == blessed
        results = read_gates(evaluation)
        assert results is not None
        self.results[name] = results
        self._check_page(results, is_pushed)
        return is_pushed

    def reasons(self, name: str) -> dict[str, str]:
        """In words, the gates that a student did not hold."""
        return {result.gate: result.words for result in self.results[name] if not result.held}

    def _check_page(self, results: list[GateResult], is_pushed: bool) -> None:
        """The page says of every gate whether it holds, and at its top why a model was not pushed."""
        report = {**REPORT, "blessed": is_pushed, "pushed": REPORT["pushed"] if is_pushed else None}
        page = render_page(whole_content(report=report, gates=results))
        header = ElementTree.fromstring(page.partition("\n")[2]).find("body/header")
        assert header is not None
        text = " ".join("".join(header.itertext()).split())
        assert ("✓ Blessed and pushed" in text) == is_pushed
        assert ("✗ Not blessed, not pushed" in text) == (not is_pushed)
        rows = [" ".join("".join(row.itertext()).split()) for row in header.findall(".//tbody/tr")]
        assert len(rows) == len(results)
        for row, result in zip(rows, results, strict=True):
            assert row.endswith("✓ holds" if result.got is not None and result.held else "not asked" if result.held else "✗ fails"), row
            assert result.held or " ".join(result.words.split()) in text


@pytest.fixture(scope="module")
def road(school, taught, tmp_path_factory) -> Road:
    gemma, windows = school.gemma, school.windows
    gemma.backbone.set_weights(taught)
    targets = TargetScorer(gemma, top_k=TOP_K)(tf.constant(windows))
    examples = [
        scored_example(window, b"any", *(target[row].numpy() for target in targets)).SerializeToString()
        for row, window in enumerate(windows)
    ]
    return Road(tmp_path_factory.mktemp("road"), gemma, examples)


@pytest.fixture(scope="module")
def good(road, student) -> standard_artifacts.Model:
    return road.export("good", student)


def cut_short(folder: str) -> None:
    """Half of a SavedModel's variables."""
    [data] = pathlib.Path(folder).glob("variables/variables.data-*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def test_the_good_student_is_pushed(road, good):
    assert road.go("good", good)
    assert road.reasons("good") == {}
    [version] = (road.folder / "good pushed").iterdir()
    assert {"saved_model", "tokenizer.model", "manifest.json"} <= {path.name for path in version.iterdir()}


@pytest.mark.parametrize("how", [how for how in BROKEN if how != NAN])
def test_a_broken_student_is_not_pushed(school, road, untrained, student, how):
    model = road.export(how, BROKEN[how](school, untrained, student), INT4 if how == IN_INT4 else None)
    assert not road.go(how, model)
    reasons = road.reasons(how)
    # A file is what the student is, however bad that is.
    assert set(reasons) <= set(GATES.asked)
    assert reasons["max_perplexity_vs_teacher"].startswith("perplexity_vs_teacher is ")
    assert "asks for at most 1.03" in reasons["max_perplexity_vs_teacher"]


def test_what_is_no_number_is_not_exported_and_would_not_be_pushed(school, road, untrained, student):
    weights = BROKEN[NAN](school, untrained, student)
    with pytest.raises(WeightsError, match=r"2,048 of the 2,048 numbers of .*decoder_block_1/ffw_gating/kernel are not finite; train it"):
        road.export(NAN, weights)
    assert not (road.folder / NAN).exists()
    # An Exporter that did not look would have made these files.
    model = road.judge.artifact(NAN, files={"saved_model": {"bytes": 1, "speed": 1.0}})
    export_saved_model(road.gemma, f"{model.uri}/Format-Serving", context_length=64, max_new_tokens=4, window=WINDOW, top_k=TOP_K)
    assert not road.go(NAN, model)
    reasons = road.reasons(NAN)
    assert set(reasons) == {"tokens", *GATES.asked}
    assert "its eval signature gave no number" in reasons["tokens"]


def test_a_file_that_is_cut_short_is_not_exported_and_would_not_be_pushed(road, good, student, monkeypatch):
    def cut(student: Gemma, path: str, **options: object) -> None:
        export_saved_model(student, path, **options)
        cut_short(path)

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "export_saved_model", cut)
        with pytest.raises(ParityError, match=r"Format-Serving is damaged \(.+\): copy or export it again"):
            road.export(TRUNCATED, student)
    # Whole when it was exported, and cut short afterwards.
    shutil.rmtree(road.folder / TRUNCATED)
    shutil.copytree(good.uri, road.folder / TRUNCATED)
    model = standard_artifacts.Model()
    model.uri = str(road.folder / TRUNCATED)
    cut_short(f"{model.uri}/Format-Serving")
    assert not road.go(TRUNCATED, model)
    reasons = road.reasons(TRUNCATED)
    assert set(reasons) == {"tokens", "parity", *GATES.asked}
    assert reasons["parity"].startswith(f"the SavedModel at {model.uri}/Format-Serving is damaged (")
    assert "missing or no number" in reasons["max_kl_to_teacher"]


def test_which_gate_caught_which_student(road):
    """Runs last: the table of what the tests above saw, in which what was caught is bold."""
    if set(road.results) != {"good", *BROKEN, TRUNCATED}:
        pytest.skip("needs the tests above")
    [header, *rows] = table(road.results)
    print("", header, "| --- " * header.count(" | ") + "| --- |", *rows, sep="\n")
    caught = {row.split(" | ")[0].removeprefix("| ") for row in rows if "**" in row}
    assert caught == {*BROKEN, TRUNCATED}
    for name, results in road.results.items():
        for result in results:
            over = result.got is not None and (result.got > result.asked if result.gate.startswith("max_") else result.got < result.asked)
            assert result.gate == "parity" or result.held != over or result.got is None, (name, result)


def table(results: dict[str, list[GateResult]]) -> list[str]:
    """A row for each student, with a column for each gate."""
    gates = {result.gate: f"`{result.gate}` {result.asked:g}" for result in results["good"] if not result.skipped}
    rows = [f"| student | {' | '.join(gates.values())} |"]
    for name, of_student in results.items():
        cells = []
        for result in of_student:
            if result.gate in gates:
                got = "no number" if result.got is None else f"{result.got:.4g}"
                cells.append(got if result.held else f"**{got}**")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows
