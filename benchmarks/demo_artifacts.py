"""What nodes of the demo's pipeline made, for the benchmarks that begin there."""

import pathlib
from collections.abc import Sequence
from typing import Any


def artifacts(config: Any, output: pathlib.Path, nodes: Sequence[str]) -> dict[str, dict[str, str]]:
    """Runs some nodes of a pipeline in a demo's folder, from cache where nothing changed.

    Args:
      config: the experiment.
      output: the folder of `gemma-distill run`.
      nodes: their ids; what they read from runs as well.

    Returns:
      For each node the URIs of its outputs by name.
    """
    from ml_metadata import metadata_store
    from tfx.orchestration.local.local_dag_runner import LocalDagRunner
    from tfx.orchestration.metadata import sqlite_metadata_connection_config
    from tfx.orchestration.pipeline import RunOptions

    from tfx_pipeline.output_folder import OutputFolder
    from tfx_pipeline.pipeline import create_pipeline
    from tfx_pipeline.report import latest_run

    folder = OutputFolder(output)
    folder.path.mkdir(parents=True, exist_ok=True)
    connection = sqlite_metadata_connection_config(str(folder.metadata))
    pipeline = create_pipeline(config, str(folder.pipeline_root), connection, str(folder.pushed))
    LocalDagRunner().run(pipeline, RunOptions(to_nodes=nodes))
    found = latest_run(metadata_store.MetadataStore(connection), config.name, nodes)
    return {node: {name: artifact.uri for name, artifact in run.outputs.items()} for node, run in found.items()}
