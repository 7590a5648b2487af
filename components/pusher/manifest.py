"""manifest.json: what a pushed version is made of, where it comes from and how good it is."""

import datetime
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tfx import types

from components.artifacts import METRICS_FILE
from components.quality_gate.results import OVERALL, read_metrics
from gemma_tf_distill.export.files import file_records

NAME = "manifest.json"

_PACKAGES = ("gemma-tf-distill", "tensorflow", "tensorflow-text", "keras", "keras-hub", "tfx", "sentencepiece", "ai-edge-litert")
_PARENTS = ("tokenizer", "examples", "student", "model")


def file_format(path: str) -> str:
    """The format of a file of a version, from its path relative to the version: `saved_model`, `tflite` and so on."""
    folder, _, rest = path.partition("/")
    if rest:
        return folder
    suffix = os.path.splitext(path)[1].lstrip(".")
    return "sentencepiece" if suffix == "model" else suffix


def installed_packages() -> dict[str, str]:
    """Versions of the packages that make a model what it is; those that are not installed are left out."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def create_manifest(folder: str, version: int, config: str, artifacts: Mapping[str, types.Artifact]) -> dict[str, Any]:
    """Describes the files below `folder`.

    Args:
      folder: the version's files, the manifest itself not among them.
      version: Unix time in seconds.
      config: the whole config as JSON.
      artifacts: the Pusher's inputs by name.

    Returns:
      `version`, `created` (UTC), `files` (`path` relative to the version, `format`, `bytes`, `sha256`), `config` and its sha256
      `config_digest`, `metrics` (`evaluation`: the Evaluator's overall slice; `training`: the student's metrics.json), `parents`
      (the teacher's source, and uri and ML Metadata id of every artifact on the way), `packages`.
    """
    with tf.io.gfile.GFile(os.path.join(artifacts["student"].uri, METRICS_FILE)) as file:
        training = json.loads(file.read())
    values = json.loads(config)
    return {
        "version": version,
        "created": datetime.datetime.fromtimestamp(version, datetime.UTC).isoformat(),
        "files": [
            {"path": record.path, "format": file_format(record.path), "bytes": record.bytes, "sha256": record.sha256}
            for record in file_records(folder)
        ],
        "config": values,
        "config_digest": hashlib.sha256(config.encode()).hexdigest(),
        "metrics": {"evaluation": read_metrics(artifacts["model_evaluation"].uri)[OVERALL], "training": training},
        "parents": {
            "teacher": values["teacher"]["source"],
            **{name: {"uri": artifacts[name].uri, "id": artifacts[name].id} for name in _PARENTS},
        },
        "packages": installed_packages(),
    }
