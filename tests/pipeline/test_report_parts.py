"""What the report reads of artifacts, each written as TensorFlow and TFDV write it."""

import pytest
import tensorflow as tf
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from tfx_pipeline.report_parts import read_anomalies, read_curves, read_statistics


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
