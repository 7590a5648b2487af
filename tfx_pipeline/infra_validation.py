"""TensorFlow Serving as a judge: TFX's InfraValidator, and whether it could run here. TFX is imported inside functions."""

import importlib.metadata
import os
import shutil
from typing import TYPE_CHECKING

from gemma_tf_distill.errors import ConfigError

if TYPE_CHECKING:
    from tfx import types
    from tfx.components import InfraValidator

# Loading the 270M in float32 from a slow disk, on a machine that does other things too.
_LOADING_SECONDS = 600
_REACH_SECONDS = 10
# What TFX's runner for Kubernetes asks for before it starts a pod.
_KUBEFLOW_VARIABLES = ("KUBERNETES_SERVICE_HOST", "KFP_POD_NAME", "KFP_NAMESPACE")
_OR_NULL = "or set infra_validation to null"


def infra_validator(model: "types.BaseChannel", examples: "types.BaseChannel", platform: str, split: str) -> "InfraValidator":
    """The node that starts TensorFlow Serving, loads the exported model and asks its signature `eval` about one window.

    Args:
      model: the Exporter's.
      examples: scored windows, as the signature reads them.
      platform: of `Config.infra_validation`, `docker` or `kubernetes`.
      split: of the window.
    """
    from tfx.components import InfraValidator
    from tfx.proto import infra_validator_pb2

    serving = infra_validator_pb2.ServingSpec(
        # The release whose client TFX uses.
        tensorflow_serving=infra_validator_pb2.TensorFlowServing(tags=[importlib.metadata.version("tensorflow-serving-api")]),
    )
    if platform == "docker":
        serving.local_docker.CopyFrom(infra_validator_pb2.LocalDockerConfig(client_base_url=_docker_address()))
    else:
        serving.kubernetes.CopyFrom(infra_validator_pb2.KubernetesConfig())
    signatures = infra_validator_pb2.TensorFlowServingRequestSpec(signature_names=["eval"])
    return InfraValidator(
        model=model,
        examples=examples,
        serving_spec=serving,
        validation_spec=infra_validator_pb2.ValidationSpec(max_loading_time_seconds=_LOADING_SECONDS, num_tries=2),
        request_spec=infra_validator_pb2.RequestSpec(tensorflow_serving=signatures, split_name=split, num_examples=1),
    )


def check_infra_validation(platform: str | None) -> None:
    """Looks whether TensorFlow Serving could be started where the config asks for it.

    Raises:
      ConfigError: if there is no `docker` on PATH, its daemon does not answer, or this is no pod of Kubeflow Pipelines.
    """
    if platform == "docker":
        _check_docker()
    if platform == "kubernetes":
        missing = [name for name in _KUBEFLOW_VARIABLES if name not in os.environ]
        if missing:
            raise ConfigError(
                f"infra_validation is kubernetes, which works inside a pod of Kubeflow Pipelines only, and {missing[0]} is not set here: "
                f"run the pipeline there, set infra_validation to docker, {_OR_NULL}"
            )


def _check_docker() -> None:
    if shutil.which("docker") is None:
        raise ConfigError(f"infra_validation is docker, but there is no docker on PATH: install Docker, {_OR_NULL}")
    import docker

    address = _docker_address()
    try:
        # As TFX's own runner makes it.
        client = docker.DockerClient(**({"base_url": address} if address else {}), timeout=_REACH_SECONDS)
        try:
            client.ping()
        finally:
            client.close()
    except docker.errors.DockerException as error:
        where = address or "/var/run/docker.sock"
        raise ConfigError(
            f"infra_validation is docker, but its daemon is not reachable at {where} ({' '.join(str(error).split())}): start it, let this "
            f"user use it, {_OR_NULL}"
        ) from error


def _docker_address() -> str:
    """Where Docker listens if not at its usual place, as its own command line reads it; TFX does not look there by itself."""
    return os.environ.get("DOCKER_HOST", "")
