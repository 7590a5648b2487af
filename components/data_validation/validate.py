"""The DataValidator's work, on folders: usable without a pipeline."""

import json
import os

import tensorflow as tf
import tensorflow_data_validation as tfdv

from components.corpus_gen.rows import MOST_DOCUMENTS, read_rows
from components.data_validation.compare import Findings, compare, make_schema
from components.data_validation.features import document_table, prompt_table, window_table
from components.data_validation.results import ANOMALIES_FILE, DISTANCES_FILE, SERVING_SPLIT, STATISTICS_FILE
from gemma_tf_distill.config import DataValidationConfig, section_from_json
from gemma_tf_distill.data.batches import split_files
from gemma_tf_distill.data.serving_prompts import read_serving_prompts
from gemma_tf_distill.data.splitting import HELDOUT, SPLITS, TRAIN
from gemma_tf_distill.errors import CorpusError
from gemma_tf_distill.gemma.vocabulary import Vocabulary
from gemma_tf_distill.monitoring.progress import warn
from gemma_tf_distill.report.distances import distance_records


def validate(*, examples_uri: str, tokenizer_uri: str, statistics_uri: str, schema_uri: str, anomalies_uri: str, config: str) -> Findings:
    """Computes statistics, compares them, writes all of it, and tells what breaks a limit; see `DataValidator` for the arguments.

    Raises:
      CorpusError: if a limit is broken and `stop_on_anomalies` is set, or the prompts can't be read.
    """
    settings = json.loads(config)
    asked = section_from_json(DataValidationConfig, config, "data_validation")
    labels = ("source", *settings["features"])
    tables = {split: document_table(read_rows(examples_uri, split), labels) for split in SPLITS}
    if asked.serving_prompts is not None:
        prompts = read_serving_prompts(asked.serving_prompts, settings["field"], MOST_DOCUMENTS)
        tables[SERVING_SPLIT] = prompt_table(prompts, Vocabulary.load(tokenizer_uri))
    windows = {f"{split}_windows": window_table(split_files(examples_uri, split), settings["window"]) for split in SPLITS}
    # One job: TFDV would start processes otherwise, which costs more than these few columns.
    statistics = {split: tfdv.generate_statistics_from_dataframe(table, n_jobs=1) for split, table in {**tables, **windows}.items()}
    for split, found in statistics.items():
        _write(os.path.join(statistics_uri, f"Split-{split}", STATISTICS_FILE), found.SerializeToString())

    schema = make_schema(statistics[TRAIN], asked, labels)
    tf.io.gfile.makedirs(schema_uri)
    tfdv.write_schema_text(schema, os.path.join(schema_uri, "schema.pbtxt"))
    findings = compare(schema, asked, labels, statistics[TRAIN], statistics[HELDOUT], statistics.get(SERVING_SPLIT))
    for split, anomalies in findings.anomalies.items():
        _write(os.path.join(anomalies_uri, f"Split-{split}", ANOMALIES_FILE), anomalies.SerializeToString())
    distances = distance_records(findings.distances)
    _write(os.path.join(anomalies_uri, DISTANCES_FILE), (json.dumps(distances, indent=2) + "\n").encode())
    _tell(findings.words, asked.stop_on_anomalies)
    return findings


def _write(path: str, content: bytes) -> None:
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content)


def _tell(anomalies: list[str], stop: bool) -> None:
    if not anomalies:
        return
    if stop:
        raise CorpusError(
            f"{'; '.join(anomalies)}: look at corpus.source, raise the limits of data_validation, or set "
            "data_validation.stop_on_anomalies to false"
        )
    for anomaly in anomalies:
        warn(f"{anomaly}; the run goes on, since data_validation.stop_on_anomalies is false")
