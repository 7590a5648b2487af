"""Metadata of documents on its way from JSON lines to the Evaluator's slices: CorpusGen, TeacherScorer and Evaluator, each as it runs."""

import collections
import json
import math
import os
import pathlib
import random
import shutil
from typing import Any

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import standard_artifacts

import components
from components.corpus_gen import rows, selection
from components.corpus_gen.component import CorpusGen, corpus_gen_config
from components.quality_gate.results import read_metrics
from components.teacher_scorer.component import TeacherScorer, teacher_scorer_config
from gemma_tf_distill.config import Config, GatesConfig, SliceGates, config_from_dict
from gemma_tf_distill.data.batches import records, split_files
from gemma_tf_distill.data.packing import pack
from gemma_tf_distill.data.splitting import SPLITS, document_hash, split_of
from gemma_tf_distill.errors import CorpusError
from gemma_tf_distill.export.saved_model import export_saved_model
from gemma_tf_distill.gemma.vocabulary import Vocabulary

WINDOW, TOP_K, HELDOUT_FRACTION = 24, 8, 0.4
WORDS = {"de": "das ist der ein Wert und die Summe", "en": "the mean of values along an axis is returned"}
FEATURES = ("language", "year")


def make_documents() -> list[dict[str, Any]]:
    """One file's documents of two languages in turn, a fifth of none that is known; each begins with its own number."""
    chance = random.Random(0)
    documents = []
    for number in range(100):
        language = ("de", "en")[number % 2]
        text = f"{number} " + " ".join(chance.choices(WORDS[language].split(), k=12))
        documents.append({"text": text, "language": language, "year": 2024 + number % 3 // 2, "id": number})
        if number % 10 > 7:
            del documents[-1]["language"]
    return documents


DOCUMENTS = make_documents()


class Run:
    """CorpusGen, and TeacherScorer on what it wrote, in a folder."""

    def __init__(self, folder: pathlib.Path, teacher: str):
        self.folder, self.teacher = folder, teacher

    def config(self, **corpus) -> Config:
        (self.folder / "a.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
        defaults = {"source": f"{self.folder}/a.jsonl", "min_characters": 20, "heldout_fraction": HELDOUT_FRACTION, "window": WINDOW}
        return config_from_dict(
            {
                "name": "test",
                "teacher": {"source": self.teacher},
                "corpus": {**defaults, "features": FEATURES, **corpus},
                "student": {"vocabulary": "full"},
                "distillation": {"top_k": TOP_K},
            }
        )

    def artifact(self, kind: type, name: str):
        artifact = kind()
        artifact.uri = str(self.folder / name)
        os.makedirs(artifact.uri, exist_ok=True)
        return artifact

    def corpus_gen(self, config: Config) -> str:
        """The windows' folder."""
        examples = self.artifact(standard_artifacts.Examples, "examples")
        self._do(
            CorpusGen,
            {},
            {"examples": [examples], "tokenizer": [self.artifact(components.Tokenizer, "tokenizer")]},
            {"config": corpus_gen_config(config), "corpus_fingerprint": "", "teacher_fingerprint": ""},
        )
        return examples.uri

    def teacher_scorer(self, config: Config) -> str:
        """The scored windows' folder."""
        scored = self.artifact(standard_artifacts.Examples, "scored")
        inputs = {"examples": [self.artifact(standard_artifacts.Examples, "examples")]}
        inputs |= {"tokenizer": [self.artifact(components.Tokenizer, "tokenizer")]}
        self._do(TeacherScorer, inputs, {"scored_examples": [scored]}, {"config": teacher_scorer_config(config, "", "")})
        return scored.uri

    @staticmethod
    def _do(component, inputs, outputs, parameters) -> None:
        context = BaseBeamExecutor.Context(make_beam_pipeline_fn=lambda: beam.Pipeline(runner=FnApiRunner()))
        component.EXECUTOR_SPEC.executor_class(context).Do(inputs, outputs, {**parameters, "source_digest": ""})


def windows_of(folder: str, split: str) -> list[tuple[bytes, dict[str, tf.train.Feature]]]:
    serialized = list(records(split_files(folder, split)).as_numpy_iterator())
    return [(window, dict(tf.train.Example.FromString(window).features.feature)) for window in serialized]


def value(features: dict[str, tf.train.Feature], name: str) -> str:
    [found] = features[name].bytes_list.value
    return found.decode()


@pytest.fixture(scope="module")
def teacher_folder(tiny_teacher, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    tiny_teacher.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def run(teacher_folder, tmp_path_factory) -> Run:
    run = Run(tmp_path_factory.mktemp("run"), teacher_folder)
    run.corpus_gen(run.config())
    run.teacher_scorer(run.config())
    return run


@pytest.mark.parametrize("split", SPLITS)
def test_documents_are_packed_with_those_of_the_same_features_only(run, split):
    tokenizer = Vocabulary.load(str(run.folder / "tokenizer")).tokenizer
    groups = collections.defaultdict(list)
    for document in sorted(DOCUMENTS, key=lambda document: document_hash(document["text"])):
        if split_of(document_hash(document["text"]), HELDOUT_FRACTION) == split:
            groups[document.get("language", "unknown"), str(document["year"])].append(tokenizer.encode(document["text"]))
    expected = [(*values, tuple(tokens)) for values, group in groups.items() for tokens in pack(group, WINDOW)]
    found = [
        (*(value(features, name) for name in FEATURES), tuple(features["tokens"].int64_list.value))
        for _, features in windows_of(str(run.folder / "examples"), split)
    ]
    assert len(groups) > 4
    assert sorted(found) == sorted(expected)


def test_held_out_windows_keep_their_features_when_they_are_scored(run):
    def origins(folder: str) -> list[tuple]:
        return sorted(
            (tuple(features["tokens"].int64_list.value), *(value(features, name) for name in ("source", *FEATURES)))
            for _, features in windows_of(str(run.folder / folder), "heldout")
        )

    assert origins("scored") == origins("examples")
    assert {origin[2] for origin in origins("scored")} == {"de", "en", "unknown"}


def test_slices_of_features_are_figures_of_their_windows_and_have_gates(run, judge, make_gemma, tmp_path):
    model = judge.artifact("candidate")
    path = str(tmp_path / "saved_model")
    export_saved_model(make_gemma(0, num_layers=1), path, context_length=64, max_new_tokens=4, window=WINDOW, top_k=TOP_K)
    shutil.copytree(path, model.uri + "/Format-Serving")
    windows = windows_of(str(run.folder / "scored"), "heldout")
    gates = GatesConfig(
        max_heldout_nll=50.0,
        max_regression_vs_baseline=None,
        slices=("source", *FEATURES),
        per_slice={
            "language=de": SliceGates(max_heldout_nll=0.5),
            "language=en": SliceGates(max_heldout_nll=50.0),
            "language=fr": SliceGates(max_heldout_nll=50.0),
            # A text of digits is a number to TFMA.
            "year=2024": SliceGates(max_heldout_nll=50.0),
        },
    )
    blessed, evaluation, failed = judge(gates, [window for window, _ in windows], model)

    eval_signature = tf.saved_model.load(path).signatures["eval"]
    expected = {}
    for name in FEATURES:
        for of_slice in {value(features, name) for _, features in windows}:
            sums = eval_signature(examples=tf.constant([window for window, features in windows if value(features, name) == of_slice]))
            tokens = float(tf.reduce_sum(sums["token_count"]))
            expected[f"{name}={of_slice}"] = (tokens, float(tf.reduce_sum(sums["nll_sum"])) / tokens)
    found = {name: (figures["tokens"], figures["heldout_nll"]) for name, figures in read_metrics(evaluation).items()}
    assert set(expected) == {"language=de", "language=en", "language=unknown", "year=2024", "year=2025"}
    assert set(found) == {"overall", "source=a.jsonl", *expected}
    for name, figures in expected.items():
        assert found[name] == pytest.approx(figures, rel=1e-5), name
    assert len({nll for _, nll in expected.values()}) == len(expected)
    for name in FEATURES:
        assert math.fsum(tokens for label, (tokens, _) in found.items() if label.startswith(f"{name}=")) == found["overall"][0]

    assert not blessed
    assert set(failed) == {"max_heldout_nll language=de", "max_heldout_nll language=fr"}
    nll = found["language=de"][1]
    asked = "gates.per_slice.language=de.max_heldout_nll asks for at most 0.5"
    assert failed["max_heldout_nll language=de"].words == f"heldout_nll of language=de is {nll:.4f}, {asked}"
    assert failed["max_heldout_nll language=fr"].words == (
        "there is no held-out example of language=fr, of which gates.per_slice.language=fr.max_heldout_nll asks for at most 50; "
        "there are language=de, language=en, language=unknown"
    )

    gates = GatesConfig(
        max_heldout_nll=50.0,
        max_regression_vs_baseline=None,
        slices=("year",),
        per_slice={"year=2024": SliceGates(max_heldout_nll=50.0)},
    )
    assert judge(gates, [window for window, _ in windows], model)[0]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            ["language", "id"],
            r"^'id' of corpus\.features has 100 values, and 99 at the most are possible, since documents of each value are",
        ),
        (["langage"], r"^no document of corpus\.source .*a\.jsonl' has 'langage', which corpus\.features asks for$"),
    ],
)
def test_features_that_slice_into_too_many_or_nothing(teacher_folder, tmp_path, monkeypatch, features, message):
    monkeypatch.setattr(selection, "MOST_VALUES", 99)
    run = Run(tmp_path, teacher_folder)
    with pytest.raises(CorpusError, match=message):
        run.corpus_gen(run.config(features=features))
    assert os.listdir(tmp_path / "examples") == []


def test_of_equal_texts_one_stays_with_the_features_that_come_first(teacher_folder, tmp_path, monkeypatch):
    again = [{**document, "language": "zz"} for document in DOCUMENTS]
    monkeypatch.setattr(f"{__name__}.DOCUMENTS", [*again, *DOCUMENTS])
    run = Run(tmp_path, teacher_folder)
    uri = run.corpus_gen(run.config(features=["language"], max_train_tokens=200))
    kept = [row for split in SPLITS for row in rows.read_rows(uri, split)]
    assert {row["language"] for row in kept} == {"de", "en", "unknown"}
    assert len(kept) < len(DOCUMENTS)
