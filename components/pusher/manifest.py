"""What a pushed version is made of, where it comes from and how good it is, out of the pipeline's artifacts."""

import json
import os
from collections.abc import Mapping
from typing import Any

from tfx import types

from components.artifact_files import EXPORT_REPORT, METRICS_FILE, read_json
from components.quality_gate.results import read_metrics
from gemma_tf_distill.export.manifest import write_documents
from gemma_tf_distill.report.gates import OVERALL

_PARENTS = ("tokenizer", "examples", "student", "model")


def describe_version(folder: str, version: int, config: str, artifacts: Mapping[str, types.Artifact]) -> dict[str, Any]:
    """Writes manifest and model card beside the files of a version; returns the manifest.

    Args:
      folder: the version's files.
      version: Unix time in seconds.
      config: the whole config as JSON.
      artifacts: the Pusher's inputs by name.
    """
    return write_documents(
        folder,
        version=version,
        config=config,
        parents={
            "teacher": json.loads(config)["teacher"]["source"],
            **{name: {"uri": artifacts[name].uri, "id": artifacts[name].id} for name in _PARENTS},
        },
        metrics={
            "evaluation": read_metrics(artifacts["model_evaluation"].uri)[OVERALL],
            "training": read_json(os.path.join(artifacts["student"].uri, METRICS_FILE)),
        },
        parity=read_json(os.path.join(artifacts["model"].uri, EXPORT_REPORT))["parity"],
    )
