"""Compiles the pipeline to a Vertex AI pipeline job, and submits it.

    python -P -m tfx_pipeline.kubeflow_v2_runner --config-json '{"name": …}' --output job.json --dry-run
    python -P -m tfx_pipeline.kubeflow_v2_runner --config-json '{"name": …}' --output job.json \
        --image REGISTRY/gemma-tf-distill:0.1.0 --pipeline-root gs://BUCKET/FOLDER --project PROJECT --region REGION

`gemma-distill run CONFIG --runner vertex` does the same. The image is built from this repository's Dockerfile: TFX's own has neither
our components nor our versions.
"""

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from gemma_tf_distill.config import Config, config_from_dict
from gemma_tf_distill.errors import ConfigError, UserError
from gemma_tf_distill.monitoring.progress import LOG_VARIABLE
from tfx_pipeline.exit_codes import EXIT_OK, EXIT_USER_ERROR
from tfx_pipeline.output_folder import check_writable, write_whole

DEFAULT_IMAGE = "gemma-tf-distill:latest"
PLACEHOLDER_BUCKET = "YOUR-BUCKET"


def compile_job(config: Config, output: pathlib.Path, image: str, pipeline_root: str) -> dict[str, Any]:
    """Writes the pipeline of a config as a Vertex AI pipeline job.

    Args:
      config: the experiment; local paths in it must exist in the image too.
      output: the JSON file to write.
      image: the container image of every component.
      pipeline_root: `gs://` folder of the artifacts; models are pushed to its folder `pushed`.

    Returns:
      What was written.

    Raises:
      ConfigError: if `pipeline_root` is not a `gs://` address, the file can't be written, or TensorFlow Serving is asked for, which
        Vertex AI has no place to start.
    """
    if not re.fullmatch(r"gs://[^/]+(/.*)?", pipeline_root):
        raise ConfigError(f"--pipeline-root must be a gs:// address such as gs://bucket/folder, not {pipeline_root!r}")
    if config.infra_validation is not None:
        raise ConfigError(
            f"infra_validation is {config.infra_validation}, and containers of Vertex AI can start neither Docker nor pods: set it to null"
        )
    if not output.absolute().parent.is_dir() or output.is_dir():
        raise ConfigError(f"--output {str(output)!r} can't be written: give the path of a JSON file in a folder that exists")
    check_writable(output.absolute().parent, output)
    from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig

    from tfx_pipeline.pipeline import create_pipeline

    root = pipeline_root.rstrip("/")
    pipeline = create_pipeline(config, root, None, f"{root}/pushed")
    # Vertex wants lower case letters, digits and hyphens.
    pipeline.pipeline_info.pipeline_name = re.sub("[^a-z0-9-]", "-", config.name.lower()).lstrip("-") or "gemma-distill"
    job = KubeflowV2DagRunner(KubeflowV2DagRunnerConfig(default_image=image)).run(pipeline, write_out=False)
    _log_to_cloud(job)
    write_whole(output, json.dumps(job, indent=2, sort_keys=True) + "\n")
    return job


def _log_to_cloud(job: dict[str, Any]) -> None:
    """Lets the components say how far they are on standard output, from where Vertex AI takes entries for Cloud Logging."""
    for executor in job["pipelineSpec"]["deploymentSpec"]["executors"].values():
        if "container" in executor:
            executor["container"]["env"] = [{"name": LOG_VARIABLE, "value": "json"}]


def submit_job(job: pathlib.Path, project: str, region: str, service_account: str | None = None) -> str:
    """Submits a compiled job to Vertex AI and returns its resource name; it does not wait for its end.

    Raises:
      UserError: if there are no credentials, or Vertex AI refuses the job.
    """
    import google.api_core.exceptions
    import google.auth.exceptions
    from google.cloud import aiplatform

    try:
        run = aiplatform.PipelineJob(
            display_name=json.loads(job.read_text())["displayName"], template_path=str(job), project=project, location=region
        )
        run.submit(service_account=service_account)
    except (google.api_core.exceptions.GoogleAPICallError, google.auth.exceptions.GoogleAuthError) as error:
        raise UserError(f"Vertex AI did not take the job: {' '.join(str(error).split())}") from error
    return run.resource_name


def main(arguments: Sequence[str] | None = None) -> int:
    """The process that `gemma-distill run --runner vertex` starts; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m tfx_pipeline.kubeflow_v2_runner")
    parser.add_argument("--config-json", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--image")
    parser.add_argument("--pipeline-root")
    parser.add_argument("--project")
    parser.add_argument("--region")
    parser.add_argument("--service-account")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    try:
        config = config_from_dict(json.loads(options.config_json))
        if not options.dry_run:
            missing = [
                f"--{name.replace('_', '-')}" for name in ("image", "pipeline_root", "project", "region") if not getattr(options, name)
            ]
            if missing:
                raise ConfigError(f"submitting to Vertex AI needs {', '.join(missing)}; --dry-run only writes the job file")
        root = options.pipeline_root or f"gs://{PLACEHOLDER_BUCKET}/{config.name}"
        compile_job(config, options.output, options.image or DEFAULT_IMAGE, root)
        print(f"wrote {options.output}: pipeline root {root}, image {options.image or DEFAULT_IMAGE}")
        if not options.dry_run:
            print(f"submitted {submit_job(options.output, options.project, options.region, options.service_account)}")
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
