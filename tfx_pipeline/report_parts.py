"""Parts of the report that lie in artifacts of TFX and TensorBoard, as plain data."""

import os
from collections import Counter

import tensorflow as tf
from tensorflow.core.util import event_pb2
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from components.corpus_gen.rows import read_rows
from components.data_validation.results import read_document_statistics, read_findings
from gemma_tf_distill.data.splitting import SPLITS
from gemma_tf_distill.report.content import Curve, DocumentStatistics, SplitStatistics, Validation

_MOST_SOURCES = 15
_MEANS = ("tokens", "tokens_per_character", "byte_token_fraction", "unknown_token_fraction")


def read_curves(model_run_uri: str) -> list[Curve]:
    """The scalars of all trainings in a folder of event files, one folder each.

    Where a training was resumed, the later file counts for a step that both have.
    """
    curves = []
    for run in sorted(name.rstrip("/") for name in tf.io.gfile.listdir(model_run_uri)):
        scalars: dict[str, dict[int, float]] = {}
        for path in sorted(tf.io.gfile.glob(os.path.join(model_run_uri, run, "*tfevents*"))):
            for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
                event = event_pb2.Event.FromString(record)
                for value in event.summary.value:
                    # Texts and histograms are tensors too, and only the first of a tag says what it is.
                    if value.HasField("tensor") and (found := tf.make_ndarray(value.tensor)).shape == () and found.dtype.kind == "f":
                        scalars.setdefault(value.tag, {})[event.step] = float(found)
        for name, points in scalars.items():
            steps = sorted(points)
            curves.append(Curve(run=run, name=name, steps=steps, values=[points[step] for step in steps]))
    return curves


def read_statistics(statistics_uri: str) -> list[SplitStatistics]:
    """What StatisticsGen found, split by split."""
    found = []
    for path in sorted(tf.io.gfile.glob(os.path.join(statistics_uri, "Split-*", "FeatureStats.pb")), reverse=True):
        statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString(_bytes(path))
        for dataset in statistics.datasets:
            features = {feature.name or ".".join(feature.path.step): feature for feature in dataset.features}
            length = features["length"].num_stats if "length" in features else None
            source = features["source"].string_stats if "source" in features else None
            found.append(
                SplitStatistics(
                    split=_split(path),
                    examples=dataset.num_examples,
                    length={name: getattr(length, name) for name in ("min", "mean", "median", "max")} if length else {},
                    sources=[(top.value, int(top.frequency)) for top in source.top_values[:_MOST_SOURCES]] if source else [],
                    source_count=source.unique if source else 0,
                )
            )
    return found


def read_anomalies(anomalies_uri: str) -> list[str]:
    """What ExampleValidator found, a sentence each."""
    found = []
    for path in sorted(tf.io.gfile.glob(os.path.join(anomalies_uri, "Split-*", "SchemaDiff.pb")), reverse=True):
        anomalies = anomalies_pb2.Anomalies.FromString(_bytes(path))
        for feature, anomaly in sorted(anomalies.anomaly_info.items()):
            found.append(f"{_split(path)}, {feature}: {anomaly.description or anomaly.short_description}")
        if anomalies.dataset_anomaly_info.description:
            found.append(f"{_split(path)}: {anomalies.dataset_anomaly_info.description}")
    return found


def read_validation(examples_uri: str, statistics_uri: str, anomalies_uri: str) -> Validation:
    """What the DataValidator found.

    Args:
      examples_uri: of CorpusGen's `examples`, which knows the source of each document.
      statistics_uri: of the DataValidator's `statistics`; likewise `anomalies_uri`.
    """
    documents = []
    for split, statistics in read_document_statistics(statistics_uri):
        numbers = {feature.path.step[0]: feature.num_stats for feature in statistics.features if feature.HasField("num_stats")}
        sources = _sources(examples_uri, split) if split in SPLITS else []
        documents.append(
            DocumentStatistics(
                split=split,
                documents=statistics.num_examples,
                tokens=round(numbers["tokens"].mean * statistics.num_examples),
                means={name: numbers[name].mean for name in _MEANS},
                sources=sources[:_MOST_SOURCES],
                source_count=len(sources),
            )
        )
    findings = read_findings(anomalies_uri)
    return Validation(documents=documents, distances=findings.distances, anomalies=findings.words)


def _sources(examples_uri: str, split: str) -> list[tuple[str, int, int]]:
    """Name, documents and tokens of each source, the one with the most tokens first."""
    documents, tokens = Counter[str](), Counter[str]()
    for row in read_rows(examples_uri, split):
        documents[str(row["source"])] += 1
        tokens[str(row["source"])] += int(row["tokens"])
    return [(name, documents[name], number) for name, number in sorted(tokens.items(), key=lambda item: (-item[1], item[0]))]


def _split(path: str) -> str:
    return os.path.basename(os.path.dirname(path)).removeprefix("Split-")


def _bytes(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()
