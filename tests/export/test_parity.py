"""Parity runs every file in its real runtime: the student's own files pass, and what is not the student's is found out, by name."""

import dataclasses
import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.export.litert import export_litert
from gemma_tf_distill.export.litert_lm import export_litert_lm
from gemma_tf_distill.export.parity.compare import compare_completions
from gemma_tf_distill.export.parity.measure import measure_parity
from gemma_tf_distill.export.parity.messages import Completed
from gemma_tf_distill.export.parity.reference import Reference
from gemma_tf_distill.export.parity.report import FileParity, ParityReport
from gemma_tf_distill.export.parity.weights import StudentNumbers
from gemma_tf_distill.export.samples import sample_completions
from gemma_tf_distill.export.saved_model import export_saved_model
from gemma_tf_distill.gemma.student import trim_teacher
from gemma_tf_distill.gemma.vocabulary import full_vocabulary
from gemma_tf_distill.quantization.apply import fake_quantized

PROMPTS = ["A layer of", "", "naïve"]
LONG = "Returns the values. " * 30
NEW, CONTEXT = 10, 64  # of the `pushed` fixture
FILES = {"saved_model": "saved_model", "tflite": "model.tflite", "litertlm": "model.litertlm"}
if importlib.util.find_spec("torch"):
    FILES["hugging_face"] = "hugging_face"


def paths(folder, *formats: str) -> dict[str, str]:
    return {format: str(folder / FILES[format]) for format in formats or FILES}


@pytest.fixture(scope="module")
def windows(tiny_teacher):
    ids = np.random.default_rng(1).integers(4, tiny_teacher.tokenizer.vocabulary_size, size=(4, 40))
    ids[:, 0] = tiny_teacher.tokenizer.bos_id
    return ids


@pytest.fixture(scope="module")
def another(tiny_teacher):
    """A model of the same shape that differs in one matrix of the last layer."""
    copy = trim_teacher(tiny_teacher, full_vocabulary(tiny_teacher.tokenizer))
    kernel = copy.backbone.transformer_layers[-1].ffw_linear.kernel
    kernel.assign(np.random.default_rng(9).normal(scale=0.4, size=kernel.shape).astype("float32"))
    return copy


@pytest.fixture(scope="module")
def report(pushed, tiny_teacher, windows):
    return measure_parity(paths(pushed), tiny_teacher, windows, prompts=[*PROMPTS, LONG], max_new_tokens=NEW)


def test_what_was_exported_passes(report):
    assert report.failures == []
    assert report.passed
    assert report.weights_equal_fraction == 1.0
    assert [file.format for file in report.files] == list(FILES)


def test_figures_of_runtimes_that_tell_scores(report, tiny_teacher, windows):
    log_probs = tf.nn.log_softmax(tiny_teacher.logits(windows)).numpy()
    expected = -np.take_along_axis(log_probs[:, 20:-1], windows[:, 21:, np.newaxis], axis=2).mean()
    for file in report.files:
        assert file.bytes > 100_000
        assert file.peak_bytes > 50_000_000
        assert file.prefill_tokens_per_second > 1
        assert file.decode_tokens_per_second > 1
        assert file.greedy_agreement == 1.0
        if file.format == "litertlm":
            assert (file.top1_agreement, file.nll) == (None, None)
        else:
            assert file.tokens == 4 * 20
            assert file.top1_agreement == 1.0
            assert file.mean_abs_dlogprob <= file.max_abs_dlogprob < 1e-4
            assert file.nll == pytest.approx(expected, abs=1e-5)
            assert file.student_nll == pytest.approx(expected, abs=1e-5)


def test_every_runtime_writes_the_same(report, tiny_teacher):
    written = dict(zip(PROMPTS, sample_completions(tiny_teacher, PROMPTS, NEW), strict=True))
    # transformers leaves out the marks of turns, which this model goes on with.
    assert written["naïve"].startswith("<start_of_turn>")
    for file in report.files:
        left_out = {LONG, "naïve"} if file.format == "hugging_face" else {LONG}
        assert {prompt: text for prompt, text in file.completions.items() if prompt not in left_out} == {
            prompt: text for prompt, text in written.items() if prompt not in left_out
        }
        # Of a context of 32,768 tokens the long prompt leaves some.
        assert (LONG in file.completions) == (file.format == "hugging_face")


def test_the_report_is_json_and_a_table(report):
    values = json.loads(json.dumps(report.to_dict()))
    assert set(values) == {"weights_equal_fraction", "files", "passed"}
    asked = {
        "format",
        "path",
        "bytes",
        "top1_agreement",
        "max_abs_dlogprob",
        "mean_abs_dlogprob",
        "nll",
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "peak_bytes",
    }
    assert all(asked <= set(file) for file in values["files"])
    text = report.render()
    assert "parity holds" in text
    assert all(format in text for format in FILES)


def test_another_models_files_are_named(pushed, another, windows):
    report = measure_parity(paths(pushed), another, windows, prompts=PROMPTS, max_new_tokens=NEW)
    assert not report.passed
    for file in report.files:
        numbers, predictions = file.failures[:2]
        assert "does not hold the student's own numbers: 1 of" in numbers
        assert "layers.6.down, in" in numbers
        assert 0.9 < file.weights_equal_fraction < 1
        assert file.path in predictions
        assert ("goes on with" if file.format == "litertlm" else "nats behind") in predictions
    assert "parity fails" in report.render()


def test_integers_are_compared_with_integers(tiny_teacher, windows, tmp_path):
    quantization = QuantizationConfig(scheme="int8_channel", overrides={"layers.*.gate": "int4_channel"})
    student = fake_quantized(tiny_teacher, quantization)
    options = {"context_length": CONTEXT, "quantization": quantization}
    export_saved_model(student, str(tmp_path / "saved_model"), max_new_tokens=NEW, window=24, top_k=8, **options)
    export_litert(student, str(tmp_path / "model.tflite"), prefill_lengths=(16,), **options)
    (tmp_path / "tokenizer.model").write_bytes(student.tokenizer.proto)
    export_litert_lm(str(tmp_path / "model.tflite"), student.tokenizer, str(tmp_path / "model.litertlm"), context_length=CONTEXT)
    files = paths(tmp_path, "saved_model", "tflite", "litertlm")
    report = measure_parity(files, student, windows, quantization=quantization, prompts=PROMPTS, max_new_tokens=NEW)
    assert report.failures == []
    assert report.weights_equal_fraction == 1.0
    saved_model, tflite, _ = report.files
    assert saved_model.student_nll != tflite.student_nll
    assert abs(tflite.nll - tflite.student_nll) < abs(tflite.nll - saved_model.student_nll)
    # The same codes beside a student that was never rounded.
    difference = StudentNumbers(tiny_teacher, None).difference("tflite", files["tflite"])
    assert "whose codes are int8" in difference.first
    assert difference.equal_fraction < 0.5


def test_a_float8_saved_model_holds_its_codes(make_gemma, tmp_path):
    quantization = QuantizationConfig(scheme="fp8_e4m3")
    student = fake_quantized(make_gemma(), quantization)
    path = str(tmp_path / "saved_model")
    export_saved_model(student, path, context_length=CONTEXT, max_new_tokens=NEW, window=24, top_k=8, quantization=quantization)
    assert StudentNumbers(student, quantization).difference("saved_model", path) == (1.0, "")


def test_weights_that_are_missing_are_counted(pushed, make_gemma):
    larger = make_gemma(num_layers=8, intermediate_dim=48)
    difference = StudentNumbers(larger, None).difference("tflite", str(pushed / "model.tflite"))
    assert 0 < difference.equal_fraction < 1
    assert difference.first == "7 of 57 weights differ, first layers.7.attention_output, which is not in the file"


def test_a_file_that_cannot_be_run_fails_and_the_others_are_measured(pushed, tiny_teacher, windows, tmp_path):
    shutil.copy(pushed / "model.tflite", tmp_path)
    shutil.copytree(pushed / "saved_model", tmp_path / "saved_model")
    report = measure_parity(paths(tmp_path, "tflite", "saved_model"), tiny_teacher, windows, max_new_tokens=NEW)
    tflite, saved_model = report.files
    assert tflite.failures == (
        f"{tmp_path}/model.tflite can't be run: no tokenizer at {tmp_path}/tokenizer.model: a .tflite holds none, put tokenizer.model of "
        "the same model beside it",
    )
    assert saved_model.failures == ()


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "saved_model": lambda path: (path / "variables" / "variables.index").unlink(),
    "tflite": truncate,
    "litertlm": truncate,
    "hugging_face": lambda path: truncate(path / "model.safetensors"),
}


@pytest.mark.parametrize("format", FILES)
def test_a_damaged_file_is_a_failure_and_no_traceback(pushed, tiny_teacher, windows, tmp_path, format):
    folder = tmp_path / "version"
    shutil.copytree(pushed, folder)
    DAMAGES[format](folder / FILES[format])
    (file,) = measure_parity(paths(folder, format), tiny_teacher, windows, max_new_tokens=NEW).files
    (failure,) = file.failures
    assert str(folder / FILES[format]) in failure
    assert "damaged" in failure or "not a whole" in failure
    assert file.weights_equal_fraction == 0


def test_where_no_prompt_fits_the_empty_one_is_completed(pushed, tiny_teacher, windows):
    (file,) = measure_parity(paths(pushed, "litertlm"), tiny_teacher, windows, prompts=[LONG], max_new_tokens=NEW).files
    assert file.failures == ()
    assert list(file.completions) == [""]


def test_a_worker_that_dies_is_a_failure(pushed, tiny_teacher, windows, monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os\nif 'parity.worker' in ' '.join(os.sys.orig_argv): os.abort()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (file,) = measure_parity(paths(pushed, "tflite"), tiny_teacher, windows, max_new_tokens=NEW).files
    (failure,) = file.failures
    assert "can't be run: its runtime ended with exit code -6" in failure


@pytest.mark.parametrize("windows", [[], [[2, 5, 0, 0, 0]]])
def test_too_little_text(pushed, tiny_teacher, windows):
    with pytest.raises(ConfigError, match="parity needs windows of at least 4 tokens"):
        measure_parity(paths(pushed, "tflite"), tiny_teacher, windows)


@pytest.fixture(scope="module")
def reference(tiny_teacher, windows):
    with Reference(tiny_teacher, None, tuple(map(tuple, windows))) as reference:
        yield reference


@pytest.fixture(scope="module")
def completed(tiny_teacher, report):
    """What LiteRT-LM tells of a completion."""
    tokenizer, prompt = tiny_teacher.tokenizer, PROMPTS[0]
    return Completed([prompt], [[tokenizer.bos_id, *tokenizer.encode(prompt)]], None, [report.files[0].completions[prompt]], NEW)


def compared(completed: Completed, reference: Reference) -> tuple[float | None, list[str]]:
    return compare_completions("FILE", completed, reference, False)


def test_a_text_is_followed_to_its_end(reference, completed):
    assert compared(completed, reference) == (1.0, [])
    (text,) = completed.texts
    for wrong, message in (
        ("", "goes on with ''"),
        (text[: len(text) // 2], "goes on with '"),
        (text + " and more", "is more than the 10 tokens"),
        ("zebra", "goes on with 'zebra'"),
    ):
        agreement, (failure,) = compared(completed._replace(texts=[wrong]), reference)
        assert failure.startswith("FILE does not write what the student writes: ")
        assert pytest.approx(0.5, abs=0.5) == agreement
        assert message in failure


class Scripted:
    """A student of single characters that says what it is told to: after a text, words in a tie and the others far behind."""

    class tokenizer:
        bos_id, eos_id, vocabulary_size = 2, 1, 8
        words = ["", "", "", "f", "fo", "o", "ob", "x"]

        @classmethod
        def encode(cls, text):
            return []

        @classmethod
        def decode(cls, ids):
            return "".join(cls.words[i] for i in ids)

        @classmethod
        def piece(cls, token):
            return cls.words[token]

        @staticmethod
        def id_of(piece):
            return None

    def __init__(self, ties):
        self.ties, self.student = ties, self

    def log_probs(self, window, begin, integer):
        scores = np.full((1, 8), -20.0, np.float32)
        for order, word in enumerate(self.ties.get(self.tokenizer.decode(window[1:]), ["x"])):
            scores[0, 1 if word == "" else self.tokenizer.words.index(word)] = -0.001 * order
        return scores


def test_a_text_that_several_words_of_a_tie_begin_is_followed_along_the_way_that_writes_it():
    # "fo" was chosen; the likelier "f" begins the text too, but leads nowhere.
    ties = {"": ["f", "fo"], "f": ["x"], "fo": ["ob"], "foob": [""]}
    told = Completed([""], [[2]], None, ["foob"], 5)
    assert compare_completions("FILE", told, Scripted(ties), False) == (pytest.approx(2 / 3), [])
    _, (failure,) = compare_completions("FILE", told, Scripted({**ties, "fo": ["x"]}), False)
    assert "goes on with 'ob', and the student with 'x'" in failure


def test_ids_are_followed_to_their_end(reference, completed, tiny_teacher):
    (prompt_ids,) = completed.prompt_ids
    ids = []
    for _ in range(NEW):
        ids.append(int(reference.log_probs([*prompt_ids, *ids], len(prompt_ids) + len(ids) - 1, False)[0].argmax()))
    told = completed._replace(ids=[ids])
    assert compared(told, reference) == (1.0, [])
    _, (failure,) = compared(told._replace(ids=[ids[:4]]), reference)
    assert "chooses '<e" in failure
    _, (failure,) = compared(told._replace(ids=[[*ids[:3], (ids[3] + 1) % 400, *ids[4:]]]), reference)
    assert "nats behind" in failure
    _, (failure,) = compared(told._replace(prompt_ids=[[2, 7]]), reference)
    assert failure == "FILE reads 'A layer of' as other tokens than the student"


def test_scores_that_are_not_finite_fail(reference, windows):
    from gemma_tf_distill.export.parity.compare import Predictions

    predictions = Predictions(reference, False)
    for index in range(len(windows)):
        logits = reference.kept(False)[index].copy()
        if index == 2:
            logits[5, 7] = np.nan
        predictions.add(index, logits)
    (failure,) = predictions.failures("FILE")
    assert "its scores are not finite" in failure


def test_the_least_fraction_is_the_reports():
    file = FileParity(format="tflite", path="a", bytes=1, weights_equal_fraction=1.0)
    worse = dataclasses.replace(file, weights_equal_fraction=0.5, failures=("b",))
    report = ParityReport((file, worse))
    assert (report.weights_equal_fraction, report.passed, report.failures) == (0.5, False, ["b"])
