"""What the report reads of artifacts, each written as TensorFlow and TFDV write it."""

import json

import pytest
import tensorflow as tf
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from components.corpus_gen.rows import write_rows
from gemma_tf_distill.report.distances import Distance, distance_records
from tfx_pipeline.report_parts import read_anomalies, read_curves, read_statistics, read_validation


def test_curves_of_a_resumed_training_are_one(tmp_path):
    for steps, value in (((1, 2, 3), 5.0), ((3, 4), 1.0)):
        writer = tf.summary.create_file_writer(str(tmp_path / "student"), filename_suffix=f".{steps[0]}")
        with writer.as_default():
            for step in steps:
                tf.summary.scalar("distill/loss", value, step)
                tf.summary.text("hardware/verdict", "no number, and no curve", step)
        writer.close()
    (tmp_path / "control").mkdir()
    [curve] = read_curves(str(tmp_path))
    assert (curve.run, curve.name, curve.steps, curve.values) == ("student", "distill/loss", [1, 2, 3, 4], [5.0, 5.0, 1.0, 1.0])


def test_statistics_of_each_split(tmp_path):
    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = statistics.datasets.add(num_examples=40)
    length = dataset.features.add()
    length.path.step.append("length")
    length.num_stats.min, length.num_stats.mean, length.num_stats.median, length.num_stats.max = 3, 124.5, 128, 128
    source = dataset.features.add()
    source.path.step.append("source")
    source.string_stats.unique = 2
    for name, number in (("scipy", 29), ("tensorflow", 11)):
        source.string_stats.top_values.add(value=name, frequency=number)
    for split in ("heldout", "train"):
        (tmp_path / f"Split-{split}").mkdir()
        (tmp_path / f"Split-{split}" / "FeatureStats.pb").write_bytes(statistics.SerializeToString())
        dataset.num_examples = 131
    train, heldout = read_statistics(str(tmp_path))
    assert (train.split, train.examples, heldout.split, heldout.examples) == ("train", 131, "heldout", 40)
    assert heldout.length == {"min": 3, "mean": 124.5, "median": 128, "max": 128}
    assert (heldout.sources, heldout.source_count) == ([("scipy", 29), ("tensorflow", 11)], 2)


def test_what_the_data_validator_found(tmp_path):
    documents = [("numpy", 10), ("scipy", 30), ("numpy", 25)]
    for split, found in (("train", documents), ("heldout", documents[:1])):
        made = [(str(n).encode(), json.dumps({"source": source, "tokens": tokens})) for n, (source, tokens) in enumerate(found)]
        write_rows((split, made), str(tmp_path / "examples"))
    means = {"tokens": 65 / 3, "tokens_per_character": 0.28, "byte_token_fraction": 0.01, "unknown_token_fraction": 0.0}
    for split, number in (("train", 3), ("heldout", 1), ("serving", 2), ("train_windows", 9)):
        statistics = statistics_pb2.DatasetFeatureStatisticsList()
        dataset = statistics.datasets.add(num_examples=number)
        for name, mean in means.items():
            feature = dataset.features.add()
            feature.path.step.append(name)
            feature.num_stats.mean = mean
        (tmp_path / "statistics" / f"Split-{split}").mkdir(parents=True)
        (tmp_path / "statistics" / f"Split-{split}" / "FeatureStats.pb").write_bytes(statistics.SerializeToString())
    distance = Distance("tokens", "held-out documents", "Jensen-Shannon divergence", 0.4, 0.3)
    anomalies = anomalies_pb2.Anomalies()
    anomalies.anomaly_info["source"].reason.add(type="ENUM_TYPE_UNEXPECTED_STRING_VALUES", description="Values are missing: mail.")
    (tmp_path / "anomalies" / "Split-heldout").mkdir(parents=True)
    (tmp_path / "anomalies" / "Split-heldout" / "SchemaDiff.pb").write_bytes(anomalies.SerializeToString())
    (tmp_path / "anomalies" / "distances.json").write_text(json.dumps(distance_records([distance])))
    found = read_validation(*(str(tmp_path / name) for name in ("examples", "statistics", "anomalies")))
    assert [(split.split, split.documents, split.tokens) for split in found.documents] == [
        ("train", 3, 65),
        ("heldout", 1, 22),
        ("serving", 2, 43),
    ]
    assert found.documents[0].means == means
    assert [split.sources for split in found.documents] == [[("numpy", 2, 35), ("scipy", 1, 30)], [("numpy", 1, 10)], []]
    assert found.distances == [distance]
    assert found.anomalies == [
        "tokens of held-out documents is 0.4000 from the training documents' (Jensen-Shannon divergence), limit 0.3",
        "source of held-out documents: Values are missing: mail",
    ]


def test_anomalies_are_sentences(tmp_path):
    anomalies = anomalies_pb2.Anomalies()
    (tmp_path / "Split-train").mkdir()
    (tmp_path / "Split-train" / "SchemaDiff.pb").write_bytes(anomalies.SerializeToString())
    assert read_anomalies(str(tmp_path)) == []
    anomalies.anomaly_info["source"].description = "Examples contain values missing from the schema: keras."
    (tmp_path / "Split-heldout").mkdir()
    (tmp_path / "Split-heldout" / "SchemaDiff.pb").write_bytes(anomalies.SerializeToString())
    assert read_anomalies(str(tmp_path)) == ["heldout, source: Examples contain values missing from the schema: keras."]


@pytest.mark.parametrize("read", [read_statistics, read_anomalies])
def test_what_is_not_there_is_nothing(read, tmp_path):
    assert not read(str(tmp_path))
