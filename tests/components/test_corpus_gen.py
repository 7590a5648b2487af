import collections
import itertools
import json
import os
import pathlib
import random

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts

import components
from components.corpus_gen import graph, rows, windows
from components.corpus_gen.component import CorpusGen, corpus_gen_config
from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.data.packing import pack
from gemma_tf_distill.data.splitting import SPLITS, document_hash, sampling_position, split_of
from gemma_tf_distill.errors import ConfigError, CorpusError, WeightsError
from gemma_tf_distill.gemma.vocabulary import Vocabulary

WINDOW = 16
FRACTION = 0.2
SOURCES = ("web", "book", "code")
WORDS = ["the", "mean", "of", "values", "along", "an", "axis", "if", "<start_of_turn>", "def\n\n", "café", "", "", "☃", "naïve", "1984"]


def make_texts():
    """Text and source of 90 documents of 60 to 400 characters, some of which the tiny tokenizer spells in bytes."""
    chance = random.Random(0)
    texts = (f"{number} " + " ".join(chance.choices(WORDS, k=chance.randint(20, 70))) for number in range(90))
    return [(text.ljust(60, "."), SOURCES[number % 3]) for number, text in enumerate(texts)]


TEXTS = make_texts()
# Of two duplicates that source stays which comes first in the alphabet.
REPEATED = [(TEXTS[0][0], "book"), (TEXTS[1][0], "web")]
DISTINCT = [(TEXTS[0][0], "book"), *TEXTS[1:]]
CORPUS = [*TEXTS, *REPEATED, ("short", "web")]


def write_corpus(folder, rows, files=3):
    for number in range(files):
        lines = [json.dumps({"text": text, "from": source}) + "\n" for text, source in rows[number::files]]
        pathlib.Path(folder, f"{number}.jsonl").write_text("".join(lines))


class Result:
    """What CorpusGen wrote."""

    def __init__(self, examples, vocabulary):
        self.examples = examples
        self.vocabulary = vocabulary
        paths = sorted(path for pattern in ("Split-*/*", "documents/*") for path in pathlib.Path(examples.uri).glob(pattern))
        self.files = {path.relative_to(examples.uri).as_posix(): path.read_bytes() for path in paths}
        self.figures = graph.read_figures(examples.uri)

    def read(self, split):
        """(source, tokens, length) of the windows in the order of the files."""
        found = []
        paths = [os.path.join(self.examples.uri, name) for name in self.files if name.startswith(f"Split-{split}/")]
        for raw in tf.data.TFRecordDataset(paths, compression_type="GZIP").as_numpy_iterator():
            features = tf.train.Example.FromString(raw).features.feature
            assert set(features) == {"tokens", "source", "length"}
            tokens = tuple(features["tokens"].int64_list.value)
            found.append((features["source"].bytes_list.value[0].decode(), tokens, features["length"].int64_list.value[0]))
        return found

    def windows(self, split):
        """(source, tokens) of the windows, sorted."""
        return sorted((source, tokens) for source, tokens, _ in self.read(split))


@pytest.fixture(scope="module")
def teacher_folder(tiny_teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    tiny_teacher.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, teacher_folder):
    """Runs the component's executor; gives what it wrote."""
    corpus = tmp_path_factory.mktemp("corpus")
    write_corpus(corpus, CORPUS)

    def run(vocabulary="corpus", teacher=teacher_folder, **settings):
        settings = {"source": f"{corpus}/*.jsonl", "source_field": "from", "min_characters": 50, "window": WINDOW} | settings
        settings = {"heldout_fraction": FRACTION} | settings
        config = {"name": "test", "teacher": {"source": teacher}, "corpus": settings, "student": {"vocabulary": vocabulary}}
        run.last_folder = tmp_path_factory.mktemp("run")
        examples, tokenizer = standard_artifacts.Examples(), components.Tokenizer()
        for artifact, name in ((examples, "examples"), (tokenizer, "tokenizer")):
            artifact.uri = str(run.last_folder / name)
            os.makedirs(artifact.uri)
        context = BaseBeamExecutor.Context(make_beam_pipeline_fn=lambda: beam.Pipeline(runner=FnApiRunner()))
        CorpusGen.EXECUTOR_SPEC.executor_class(context).Do(
            {},
            {"examples": [examples], "tokenizer": [tokenizer]},
            {
                "config": corpus_gen_config(config_from_dict(config)),
                "corpus_fingerprint": "",
                "teacher_fingerprint": "",
                "source_digest": "",
            },
        )
        return Result(examples, Vocabulary.load(tokenizer.uri))

    return run


@pytest.fixture(scope="module")
def result(run):
    """What the component writes for the whole corpus."""
    return run()


def of_split(rows, split):
    return [(text, source) for text, source in rows if split_of(document_hash(text), FRACTION) == split]


def packed(rows, tokenizer):
    """(source, tokens) of the windows that the documents of each source make in the order of their hashes, sorted."""
    groups = collections.defaultdict(list)
    for text, source in sorted(rows, key=lambda row: document_hash(row[0])):
        groups[source].append(tokenizer.encode(text))
    return sorted((source, tuple(tokens)) for source, group in groups.items() for tokens in pack(group, WINDOW))


@pytest.mark.parametrize("split", SPLITS)
def test_every_document_is_in_the_windows_of_its_split_and_source(result, split):
    assert result.windows(split) == packed(of_split(DISTINCT, split), result.vocabulary.tokenizer)
    assert {source for source, _ in result.windows(split)} == set(SOURCES)
    for _, tokens, length in result.read(split):
        assert tokens[0] == 2
        assert len(tokens) == WINDOW
        assert length == np.count_nonzero(tokens)


def test_training_documents_are_segmented_as_the_teacher_does(result, tiny_tokenizer):
    kept = result.vocabulary.kept_ids
    assert len(kept) < tiny_tokenizer.vocabulary_size
    of_teacher = sorted((source, tuple(kept[list(tokens)].tolist())) for source, tokens in result.windows("train"))
    assert of_teacher == packed(of_split(DISTINCT, "train"), tiny_tokenizer)


def test_sources_are_mixed_within_a_file(result):
    order = [source for source, _, _ in result.read("train")]
    # Of three equal sources in random order two neighbours in three differ; one source after the other, two neighbours in all.
    assert sum(one != other for one, other in itertools.pairwise(order)) > len(order) / 3


def test_figures(result):
    documents = {split: len(of_split(DISTINCT, split)) for split in SPLITS}
    assert result.figures == {
        "read": 93,
        "short": 1,
        "duplicate": 2,
        **documents,
        **{f"{split}_kept": number for split, number in documents.items()},
        **{f"{split}_windows": len(result.read(split)) for split in SPLITS},
        **{f"{split}_tokens": sum(length for _, _, length in result.read(split)) for split in SPLITS},
        "words": len(result.vocabulary.kept_ids),
    }
    assert result.examples.get_int_custom_property("train_windows") == len(result.read("train"))


@pytest.mark.parametrize("split", SPLITS)
def test_what_documents_are_made_of(result, split):
    tokenizer = result.vocabulary.tokenizer
    expected = []
    for text, source in sorted(of_split(DISTINCT, split), key=lambda row: document_hash(row[0])):
        pieces = [tokenizer.piece(token) for token in tokenizer.encode(text)]
        spelled = sum(piece.startswith("<0x") for piece in pieces)
        counts = {"tokens": len(pieces), "characters": len(text), "byte_tokens": spelled, "unknown_tokens": 0}
        expected.append({"source": source, **counts})
    assert rows.read_rows(result.examples.uri, split) == expected
    assert any(row["byte_tokens"] for row in expected)


def test_of_many_documents_those_of_the_lowest_hashes_are_described(run, result, monkeypatch):
    monkeypatch.setattr(rows, "MOST_DOCUMENTS", 5)
    few = run()
    for split in SPLITS:
        assert rows.read_rows(few.examples.uri, split) == rows.read_rows(result.examples.uri, split)[:5]


def test_the_artifact_is_one_that_tfx_reads(result):
    assert result.examples.split_names == '["train", "heldout"]'
    assert examples_utils.get_payload_format(result.examples) == example_gen_pb2.FORMAT_TF_EXAMPLE
    assert examples_utils.get_file_format(result.examples) == "tfrecords_gzip"
    assert sorted(os.listdir(result.examples.uri)) == ["Split-heldout", "Split-train", "corpus.json", "documents"]


def test_files_are_the_same_for_any_order_and_number_of_shards(run, result, tmp_path, monkeypatch):
    expand = graph.expand_sources
    monkeypatch.setattr(graph, "expand_sources", lambda config: expand(config)[::-1])
    write_corpus(tmp_path, CORPUS[::-1], files=7)
    again = run(source=f"{tmp_path}/*.jsonl")
    assert again.files == result.files
    assert again.vocabulary.proto == result.vocabulary.proto


@pytest.mark.parametrize("cap", [WINDOW, 300])
def test_caps_keep_the_first_documents_by_their_hash(run, tiny_tokenizer, cap):
    capped = run(max_train_tokens=cap, max_heldout_tokens=10**6)
    rows = sorted(of_split(DISTINCT, "train"), key=lambda row: sampling_position(document_hash(row[0])))
    tokens = np.cumsum([len(tiny_tokenizer.encode(text)) for text, _ in rows])
    kept = rows[: int(np.searchsorted(tokens, cap)) + 1]
    assert capped.figures["train_kept"] == len(kept) < len(rows)
    assert capped.windows("train") == packed(kept, capped.vocabulary.tokenizer)
    assert capped.windows("heldout") == packed(of_split(DISTINCT, "heldout"), capped.vocabulary.tokenizer)


def test_large_sources_are_packed_in_groups_and_many_windows_go_to_several_files(run, monkeypatch):
    monkeypatch.setattr(windows, "GROUP_TOKENS", 300)
    monkeypatch.setattr(windows, "SHARD_TOKENS", 500)
    grouped = run()
    names = [name for name in grouped.files if name.startswith("Split-train/")]
    assert len(names) > 2
    assert names == [f"Split-train/data_tfrecord-{number:05d}-of-{len(names):05d}.gz" for number in range(len(names))]
    found = grouped.read("train")
    encoded = grouped.vocabulary.tokenizer.encode_batch([text for text, _ in of_split(DISTINCT, "train")])
    expected = collections.Counter(token for document in encoded for token in (*document, 1))
    assert collections.Counter(token for _, tokens, _ in found for token in tokens if token not in (0, 2)) == expected
    # Every group ends in a window of its own.
    assert sum(length < WINDOW for _, _, length in found) > len(SOURCES)


def test_the_full_vocabulary(run, tiny_tokenizer):
    full = run("full")
    assert full.vocabulary.proto == tiny_tokenizer.proto
    assert full.windows("train") == packed(of_split(DISTINCT, "train"), tiny_tokenizer)


def test_a_vocabulary_of_a_given_size(run, result):
    small = run(290)
    assert len(small.vocabulary.kept_ids) <= 290 < len(result.vocabulary.kept_ids)
    assert small.windows("train") == packed(of_split(DISTINCT, "train"), small.vocabulary.tokenizer)


def test_a_vocabulary_that_is_too_small(run):
    with pytest.raises(ConfigError, match=r"^student\.vocabulary must be at least \d+, .* not 10$"):
        run(10)


def test_a_teacher_that_is_not_there(run, tmp_path):
    with pytest.raises(WeightsError, match=r"absent\.gguf") as caught:
        run(teacher=f"gguf:{tmp_path}/absent.gguf")
    assert "while running" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_characters": 10**6}, r"no documents left of .*: 93 read, 93 of them shorter than corpus\.min_characters \(1000000\)"),
        ({"heldout_fraction": 1e-9}, r"no held-out documents in .*: 93 read, 1 shorter .*, 90 left"),
        ({"heldout_fraction": 1 - 1e-9}, r"no training documents in .*, 90 left"),
        ({"field": "txt"}, r"jsonl, line 1 has no 'txt', .* did you mean 'text'\?"),
        ({"source": "text:/bin/ls"}, "/bin/ls is not text: byte 7 is NUL"),
        ({"source": "text:/dev/null", "document_separator": "\n"}, "the corpus is empty"),
        ({"source": "text:/no/such"}, "matches no file"),
    ],
)
def test_a_wrong_corpus_is_one_line_and_no_split(run, settings, message):
    with pytest.raises(CorpusError, match=message) as caught:
        run(**settings)
    assert "\n" not in str(caught.value)
    assert "while running" not in str(caught.value)
    assert list(run.last_folder.glob("*/*")) == []


def test_progress(run, tmp_path, monkeypatch):
    monkeypatch.setenv("GEMMA_DISTILL_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setattr("gemma_tf_distill.monitoring.progress._TICKER_SECONDS", 0.0)
    figures = run().figures
    events = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert {event["task"] for event in events if event["event"] == "progress"} == {"reading the corpus", "encoding the corpus", "corpus"}
    done = {unit: max(event["done"] for event in events if event.get("unit") == unit) for unit in ("documents", "tokens", "windows")}
    assert done["documents"] == 93
    assert done["tokens"] > 1000
    assert done["windows"] == figures["train_windows"] + figures["heldout_windows"]


def test_only_what_matters_is_in_the_parameter():
    config = {"name": "a", "corpus": {"source": ["text:a", "text:b"], "window": 64}, "student": {"vocabulary": 300, "layers": [0]}}
    others = {
        "name": "b",
        "seed": 7,
        "teacher": {"batch_size": 3, "dtype": "bfloat16"},
        "training": {"epochs": 9},
        "gates": {"max_heldout_nll": 3.0},
        "student": {"vocabulary": 300, "layers": [0, 1]},
    }
    text = corpus_gen_config(config_from_dict(config))
    assert corpus_gen_config(config_from_dict(config | others)) == text
    for change in ({"corpus": {"window": 65}}, {"student": {"vocabulary": 301}}, {"teacher": {"source": "gguf:other"}}):
        assert corpus_gen_config(config_from_dict(config | change)) != text


@pytest.mark.parametrize("name", ["Tokenizer", "Student"])
def test_artifact_types_are_found_by_their_names(name):
    assert getattr(components, name)().type_name == f"components.{name}"


def test_components_has_nothing_else():
    with pytest.raises(AttributeError, match="no attribute 'Teacher'"):
        components.Teacher  # noqa: B018
