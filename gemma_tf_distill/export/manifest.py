"""What goes with the files of a version: `manifest.json` for programs, a model card for people, and the licence's notice."""

import datetime
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.export.files import file_record, file_records, write_bytes
from gemma_tf_distill.export.model_card import NOTICE, model_card
from gemma_tf_distill.export.names import HUGGING_FACE_FOLDER, MANIFEST_FILE

CARD_FILE = "README.md"
NOTICE_FILE = "NOTICE"
_FORMATS = {CARD_FILE: "model_card", NOTICE_FILE: "notice"}
_PACKAGES = (
    "gemma-tf-distill",
    "tensorflow",
    "tensorflow-text",
    "keras",
    "keras-hub",
    "tfx",
    "sentencepiece",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-lm",
    "transformers",
)


def file_format(path: str) -> str:
    """The format of a file of a version, from its path relative to the version: `saved_model`, `tflite` and so on."""
    folder, _, rest = path.partition("/")
    if rest:
        return folder
    suffix = os.path.splitext(path)[1].lstrip(".")
    return _FORMATS.get(path, "sentencepiece" if suffix == "model" else suffix)


def installed_packages() -> dict[str, str]:
    """Versions of the packages that make a model what it is; those that are not installed are left out."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write_documents(
    folder: str,
    *,
    version: int,
    config: str,
    parents: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    parity: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describes the files below `folder` and writes the description beside them; `manifest.json` comes last.

    Args:
      folder: the version's files, and nothing else; local, or anything that TensorFlow opens.
      version: Unix time in seconds.
      config: the whole config as JSON.
      parents: what it was made of: `teacher` (its source), and `uri` and ML Metadata `id` of `student`, `examples` and so on.
      metrics: `evaluation` (the Evaluator's overall slice) and `training` (the student's metrics), where there are some.
      parity: `ParityReport.to_dict()`, where it was measured.

    Returns:
      The manifest: `version`, `created` (UTC), `files` (`path` relative to the version, `format`, `bytes`, `sha256`), `config` and its
      sha256 `config_digest`, `metrics`, `parity`, `parents`, `packages`.
    """
    files: list[dict[str, Any]] = [
        {"path": record.path, "format": file_format(record.path), "bytes": record.bytes, "sha256": record.sha256}
        for record in file_records(folder)
    ]
    content: dict[str, Any] = {
        "version": version,
        "created": datetime.datetime.fromtimestamp(version, datetime.UTC).isoformat(),
        "files": files,
        "config": json.loads(config),
        "config_digest": hashlib.sha256(config.encode()).hexdigest(),
        "metrics": dict(metrics or {}),
        "parity": parity,
        "parents": dict(parents),
        "packages": installed_packages(),
    }
    card = model_card(content).encode()
    # Who takes the Hugging Face folder alone takes these with it.
    folders = ["", f"{HUGGING_FACE_FOLDER}/"] if any(file["format"] == HUGGING_FACE_FOLDER for file in files) else [""]
    for place in folders:
        for name, text in ((CARD_FILE, card), (NOTICE_FILE, NOTICE.encode())):
            path = os.path.join(folder, place + name)
            write_bytes(path, text)
            record = file_record(path, folder)
            files.append({"path": place + name, "format": file_format(place + name), "bytes": record.bytes, "sha256": record.sha256})
    files.sort(key=lambda file: file["path"])
    write_bytes(os.path.join(folder, MANIFEST_FILE), json.dumps(content, indent=2).encode())
    return content


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a version.

    Raises:
      WeightsError: if there is none, or it is damaged.
    """
    path = os.path.join(folder, MANIFEST_FILE)
    if not tf.io.gfile.exists(path):
        raise WeightsError(f"no {MANIFEST_FILE} in {folder!r}: give the folder of a pushed version, or of gemma-distill export")
    try:
        with tf.io.gfile.GFile(path) as file:
            content = json.loads(file.read())
        if not {"files", "config", "parents"} <= set(content):
            raise ValueError("keys are missing")
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise WeightsError(f"{path} is damaged ({' '.join(str(error).split())[:200]}): push or export the model again") from error
    return content
