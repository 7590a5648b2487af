"""Reads back what the DataValidator wrote: statistics of documents and prompts, distances, anomalies."""

import os
from collections.abc import Iterator

import tensorflow as tf
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from components.artifact_files import read_json
from components.data_validation.compare import Findings
from gemma_tf_distill.data.splitting import SPLITS
from gemma_tf_distill.report.distances import distances_of

SERVING_SPLIT = "serving"

# In the folder of `anomalies`.
DISTANCES_FILE = "distances.json"
# In the folders of splits, of `statistics` and `anomalies`.
STATISTICS_FILE, ANOMALIES_FILE = "FeatureStats.pb", "SchemaDiff.pb"


def read_document_statistics(statistics_uri: str) -> Iterator[tuple[str, statistics_pb2.DatasetFeatureStatistics]]:
    """Split (`train`, `heldout`, and `serving` where there were prompts) and statistics of its documents, by TFDV."""
    for split in (*SPLITS, SERVING_SPLIT):
        path = os.path.join(statistics_uri, f"Split-{split}", STATISTICS_FILE)
        if tf.io.gfile.exists(path):
            [statistics] = statistics_pb2.DatasetFeatureStatisticsList.FromString(_bytes(path)).datasets
            yield split, statistics


def read_findings(anomalies_uri: str) -> Findings:
    """What a comparison came to; `anomalies_uri` is of the artifact `anomalies`."""
    anomalies = {}
    for split in ("heldout", "train", SERVING_SPLIT):
        path = os.path.join(anomalies_uri, f"Split-{split}", ANOMALIES_FILE)
        if tf.io.gfile.exists(path):
            anomalies[split] = anomalies_pb2.Anomalies.FromString(_bytes(path))
    return Findings(anomalies, distances_of(read_json(os.path.join(anomalies_uri, DISTANCES_FILE))))


def _bytes(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()
