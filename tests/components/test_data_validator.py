"""Documents and prompts made here, validated by the real TFDV."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.types import standard_artifacts

import components
from components.corpus_gen import rows, windows
from components.corpus_gen.selection import Item
from components.data_validation.component import DataValidator, data_validator_config
from components.data_validation.results import read_document_statistics, read_findings
from components.data_validation.validate import validate
from gemma_tf_distill.config import DOCUMENT_FEATURES, config_from_dict
from gemma_tf_distill.data.splitting import document_hash
from gemma_tf_distill.errors import CorpusError
from gemma_tf_distill.gemma.vocabulary import full_vocabulary
from gemma_tf_distill.monitoring.progress import listening
from gemma_tf_distill.report.distances import Distance, distance_records, distances_of
from tests.conftest import SENTENCES

WINDOW = 16
PROSE = [f"{number} {SENTENCES[number % 8]} {SENTENCES[number % 7]}" for number in range(240)]
TRAIN = [(text, ("web", "book")[number % 4 == 0]) for number, text in enumerate(PROSE[:200])]
HELDOUT = [(text, ("web", "book")[number % 4 == 0]) for number, text in enumerate(PROSE[200:])]
# Pieces of the tiny tokenizer have none of these characters: three or four bytes each.
FOREIGN = [f"雪が降る {number} ☃☃☃ 雪が降る" for number in range(40)]


class Data:
    """Validates what CorpusGen would have made of documents: texts with their source, and perhaps their language."""

    def __init__(self, folder: pathlib.Path, tokenizer):
        self.folder, self.vocabulary = folder, full_vocabulary(tokenizer)
        self.corpus = {"window": WINDOW}
        self.vocabulary.save(folder / "tokenizer")

    def write(self, train, heldout) -> None:
        for split, documents in (("train", train), ("heldout", heldout)):
            items = [
                Item(document_hash(text), split, source, "", np.array(ids, np.int32).tobytes(), len(text), tuple(features))
                for (text, source, *features), ids in zip(
                    documents, self.vocabulary.tokenizer.encode_batch([document[0] for document in documents]), strict=True
                )
            ]
            found = [rows.document_row(item, self.vocabulary, self.corpus.get("features", ()))[1] for item in items]
            rows.write_rows((split, found), str(self.folder / "examples"))
            packed = [window for _, window in windows.pack_group((((split, "web", ()), 0), [(i.digest, i.ids) for i in items]), WINDOW)]
            assert list(windows.write_shard(((split, 0, 1), packed), str(self.folder / "examples")))

    def config(self, **asked) -> str:
        return data_validator_config(config_from_dict({"name": "test", "corpus": self.corpus, "data_validation": asked}))

    def __call__(self, train=TRAIN, heldout=HELDOUT, **asked):
        """The findings, and the warnings that a person saw."""
        self.write(train, heldout)
        told = []
        with listening(told.append):
            folders = {f"{name}_uri": str(self.folder / name) for name in ("examples", "tokenizer", "statistics", "schema", "anomalies")}
            found = validate(**folders, config=self.config(**asked))
        return found, [event["message"] for event in told if event["event"] == "warning"]

    def prompts(self, texts) -> str:
        (self.folder / "prompts.txt").write_text("\n".join(texts) + "\n")
        return str(self.folder / "prompts.txt")


@pytest.fixture
def data(tmp_path, tiny_tokenizer) -> Data:
    return Data(tmp_path, tiny_tokenizer)


def test_documents_of_one_kind_have_no_anomalies_and_all_their_distances_are_known(data):
    found, warnings = data(serving_prompts=data.prompts(PROSE))
    assert found.words == warnings == []
    drift = {(d.feature, d.measure): d for d in found.distances if d.of == "held-out documents"}
    skew = {(d.feature, d.measure): d for d in found.distances if d.of == "serving prompts"}
    divergences = {(feature, "Jensen-Shannon divergence") for feature in DOCUMENT_FEATURES}
    assert set(skew) == divergences
    assert set(drift) == {*divergences, ("source", "Jensen-Shannon divergence"), ("source", "infinity norm")}
    assert {distance.limit for distance in found.distances} == {None}
    written = json.loads((data.folder / "anomalies" / "distances.json").read_text())
    assert written == [dataclasses.asdict(distance) for distance in found.distances]


def test_statistics_are_those_of_the_documents_and_windows(data):
    data()

    def numbers(split, feature):
        statistics = tfdv.load_stats_binary(str(data.folder / "statistics" / f"Split-{split}" / "FeatureStats.pb")).datasets[0]
        [found] = [f for f in statistics.features if f.path.step[0] == feature]
        return statistics.num_examples, found.num_stats

    encode = data.vocabulary.tokenizer.encode
    counts = [len(encode(text)) for text, _ in TRAIN]
    rates = [len(encode(text)) / len(text) for text, _ in TRAIN]
    examples, tokens = numbers("train", "tokens")
    assert (examples, tokens.min, tokens.max) == (200, min(counts), max(counts))
    assert tokens.mean == pytest.approx(np.mean(counts))
    assert numbers("train", "tokens_per_character")[1].mean == pytest.approx(np.mean(rates))
    number, padding = numbers("heldout_windows", "padding_fraction")
    # Only the last window is padded: with each document's <bos> and <eos>, and the <bos> of windows that begin within one.
    assert number > 1
    assert padding.num_zeros >= number - 1
    assert numbers("heldout_windows", "length")[1].mean == pytest.approx(WINDOW * (1 - padding.mean))


def test_distances_of_sources_are_those_of_their_definitions(data):
    heldout = [(text, "book" if number < 30 else "web") for number, (text, _) in enumerate(HELDOUT)]
    found, _ = data(heldout=heldout)
    values = {d.measure: d.value for d in found.distances if d.feature == "source"}
    p, q = np.array([0.25, 0.75]), np.array([0.75, 0.25])
    middle = (p + q) / 2
    divergence = (np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2
    assert values == pytest.approx({"infinity norm": 0.5, "Jensen-Shannon divergence": divergence}, abs=1e-6)


def test_drift_beyond_a_limit_is_a_warning_or_the_end(data):
    heldout = [(text, "web") for text in FOREIGN]
    limits = {"drift_comparator": {"jensen_shannon_divergence": {"byte_token_fraction": 0.2}}}
    message = r"byte_token_fraction of held-out documents is (0\.9\d+|1\.0+) from the training documents' \(.*\), limit 0\.2"
    found, warnings = data(heldout=heldout, **limits)
    assert len(found.words) == len(warnings) == 1
    with pytest.raises(CorpusError, match=message) as stopped:
        data(heldout=heldout, **limits, stop_on_anomalies=True)
    assert "set data_validation.stop_on_anomalies to false" in str(stopped.value)
    assert warnings[0].startswith(found.words[0])


def test_skew_is_between_training_documents_and_prompts(data):
    limits = {"skew_comparator": {"jensen_shannon_divergence": {"tokens_per_character": 0.3}}}
    found, _ = data(serving_prompts=data.prompts(FOREIGN), **limits)
    [words] = found.words
    assert words.startswith("tokens_per_character of serving prompts is ")
    skewed = anomalies_pb2.Anomalies.FromString((data.folder / "anomalies" / "Split-train" / "SchemaDiff.pb").read_bytes())
    assert set(skewed.anomaly_info) == {"tokens_per_character"}
    # Held-out documents are as those for training, and prompts have all that the schema asks of them.
    assert not found.anomalies["heldout"].anomaly_info
    assert not found.anomalies["serving"].anomaly_info


def test_sources_that_training_does_not_have(data):
    heldout = [*HELDOUT[:-2], *((text, "mail") for text, _ in HELDOUT[-2:])]
    assert data(heldout=heldout)[0].words == []
    # Two of forty.
    assert data(heldout=heldout, drift_comparator={"infinity_norm": 0.1})[0].words == []
    words = data(heldout=heldout, drift_comparator={"infinity_norm": 0.01})[0].words
    assert words[0] == "source of held-out documents is 0.0500 from the training documents' (infinity norm), limit 0.01"
    assert words[1].startswith("source of held-out documents: ")
    assert "mail" in words[1]


def test_features_of_documents_are_categories_that_drift(data):
    data.corpus |= {"source": "jsonl:*", "features": ["language"]}
    train = [(text, source, "de" if number < 50 else "2") for number, (text, source) in enumerate(TRAIN)]
    heldout = [(text, source, "fr" if number < 10 else "2") for number, (text, source) in enumerate(HELDOUT)]
    prompts = data.prompts(PROSE)
    found, _ = data(train, heldout, serving_prompts=prompts)
    assert found.words == []
    values = {d.measure: (d.of, d.value) for d in found.distances if d.feature == "language"}
    # A quarter is in a language that the others do not have.
    assert values == {
        "infinity norm": ("held-out documents", pytest.approx(0.25)),
        "Jensen-Shannon divergence": ("held-out documents", pytest.approx(0.25)),
    }
    limits = {"jensen_shannon_divergence": {"language": 0.2}, "infinity_norm": 0.2}
    found, warnings = data(train, heldout, serving_prompts=prompts, drift_comparator=limits)
    assert sorted(words.split(" (")[1] for words in found.words[:2]) == [
        "Jensen-Shannon divergence), limit 0.2",
        "infinity norm), limit 0.2",
    ]
    assert found.words[2].startswith("language of held-out documents: ")
    assert "fr" in found.words[2]
    assert len(warnings) == len(found.words) == 3


def test_what_was_found_is_read_back(data):
    limits = {"drift_comparator": {"jensen_shannon_divergence": {"byte_token_fraction": 0.2}, "infinity_norm": 0.5}}
    found, _ = data(heldout=[(text, "mail") for text in FOREIGN], serving_prompts=data.prompts(FOREIGN[:20]), **limits)
    read = read_findings(str(data.folder / "anomalies"))
    assert (read.words, read.distances) == (found.words, found.distances)
    assert [words.split(" of ")[0] for words in read.words] == ["byte_token_fraction", "source", "source"]
    statistics = dict(read_document_statistics(str(data.folder / "statistics")))
    assert {split: found.num_examples for split, found in statistics.items()} == {"train": 200, "heldout": 40, "serving": 20}


def test_a_distance_that_is_no_number_is_over_its_limit_and_null():
    distance = Distance("tokens", "held-out documents", "Jensen-Shannon divergence", math.nan, 0.2)
    assert distance.is_over
    assert distance.words == "tokens of held-out documents is no number from the training documents' (Jensen-Shannon divergence), limit 0.2"
    [record] = distance_records([distance])
    assert record["value"] is None
    assert math.isnan(distances_of([record])[0].value)
    assert not dataclasses.replace(distance, limit=None).is_over


def test_the_schema_shows_the_limits_that_were_asked_and_no_others(data):
    data(drift_comparator={"jensen_shannon_divergence": 0.4})
    schema = tfdv.load_schema_text(str(data.folder / "schema" / "schema.pbtxt"))
    for feature in schema.feature:
        assert feature.drift_comparator.jensen_shannon_divergence.threshold == 0.4
        assert not feature.HasField("skew_comparator")
        assert not feature.drift_comparator.HasField("infinity_norm")


def test_the_component_names_its_splits(data):
    data.write(TRAIN, HELDOUT)
    kinds = {
        "examples": standard_artifacts.Examples,
        "tokenizer": components.Tokenizer,
        "statistics": standard_artifacts.ExampleStatistics,
        "schema": standard_artifacts.Schema,
        "anomalies": standard_artifacts.ExampleAnomalies,
    }
    artifacts = {name: [kind()] for name, kind in kinds.items()}
    for name, [artifact] in artifacts.items():
        artifact.uri = str(data.folder / name)
    inputs = {name: artifacts.pop(name) for name in ("examples", "tokenizer")}
    config = data.config(serving_prompts=data.prompts(PROSE))
    DataValidator.EXECUTOR_SPEC.executor_class().Do(inputs, artifacts, {"config": config, "prompts_fingerprint": "", "source_digest": ""})
    for name, splits in {
        "statistics": ["train", "heldout", "serving", "train_windows", "heldout_windows"],
        "anomalies": ["heldout", "train", "serving"],
    }.items():
        [artifact] = artifacts[name]
        assert artifact.splits == splits
        assert {path.name for path in pathlib.Path(artifact.uri).glob("Split-*")} == {f"Split-{split}" for split in splits}
