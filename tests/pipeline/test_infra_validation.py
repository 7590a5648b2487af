"""TensorFlow Serving as a judge: the graph, and what is refused. No model server is started here."""

import http.server
import json
import pathlib
import threading

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.proto import infra_validator_pb2
from tfx.utils import proto_utils

from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.errors import ConfigError
from tfx_pipeline.infra_validation import check_infra_validation
from tfx_pipeline.kubeflow_v2_runner import compile_job
from tfx_pipeline.pipeline import create_pipeline

BASE = {"name": "graph", "corpus": {"source": "docstrings:yaml"}, "student": {"layers": [0, 1]}}


@pytest.fixture
def docker_on_path(tmp_path, monkeypatch) -> pathlib.Path:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("platform", ["docker", "kubernetes"])
def test_the_pusher_waits_for_tensorflow_serving(monkeypatch, platform):
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    config = config_from_dict({**BASE, "infra_validation": platform})
    pipeline = create_pipeline(config, "/artifacts", metadata_store_pb2.ConnectionConfig(), "/pushed")
    nodes = {component.id: component for component in pipeline.components}
    judge = nodes["InfraValidator"]
    assert {node.id for node in judge.upstream_nodes} == {"Exporter", "TeacherScorer"}
    assert judge.inputs["model"] is nodes["Exporter"].outputs["model"]
    assert nodes["Pusher"].inputs["infra_blessing"] is judge.outputs["blessing"]
    assert nodes["Pusher"].inputs["model_blessing"] is nodes["Evaluator"].outputs["blessing"]
    serving, request = infra_validator_pb2.ServingSpec(), infra_validator_pb2.RequestSpec()
    proto_utils.json_to_proto(judge.exec_properties["serving_spec"], serving)
    proto_utils.json_to_proto(judge.exec_properties["request_spec"], request)
    assert serving.WhichOneof("serving_platform") == {"docker": "local_docker"}.get(platform, platform)
    assert serving.local_docker.client_base_url == ("unix:///run/user/1000/docker.sock" if platform == "docker" else "")
    # A window of the split that the signature's own layout is written for.
    assert (list(request.tensorflow_serving.signature_names), request.split_name) == (["eval"], "heldout")


def test_nothing_waits_for_it_by_default():
    pipeline = create_pipeline(config_from_dict(BASE), "/artifacts", metadata_store_pb2.ConnectionConfig(), "/pushed")
    nodes = {component.id: component for component in pipeline.components}
    assert "InfraValidator" not in nodes
    assert "infra_blessing" not in nodes["Pusher"].inputs
    check_infra_validation(None)


def test_no_docker_on_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no docker on PATH: install Docker, or set infra_validation to null"):
        check_infra_validation("docker")


def test_no_docker_daemon(monkeypatch, docker_on_path):
    address = f"unix://{docker_on_path}/none.sock"
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(
        ConfigError, match=f"its daemon is not reachable at {address} .*: start it, let this user use it, or set"
    ) as refused:
        check_infra_validation("docker")
    assert "\n" not in str(refused.value)


def test_a_docker_daemon_that_answers(monkeypatch, docker_on_path):
    class Daemon(http.server.BaseHTTPRequestHandler):
        asked: list[str] = []

        def do_GET(self):
            self.asked.append(self.path)
            body = b"OK" if self.path.endswith("/_ping") else json.dumps({"ApiVersion": "1.44"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Daemon) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        check_infra_validation("docker")
        server.shutdown()
    assert any(path.endswith("/_ping") for path in Daemon.asked)


def test_kubernetes_means_a_pod_of_kubeflow(monkeypatch):
    for name in ("KUBERNETES_SERVICE_HOST", "KFP_POD_NAME", "KFP_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(ConfigError, match="works inside a pod of Kubeflow Pipelines only, and KFP_POD_NAME is not set here"):
        check_infra_validation("kubernetes")
    monkeypatch.setenv("KFP_POD_NAME", "pod")
    monkeypatch.setenv("KFP_NAMESPACE", "kubeflow")
    check_infra_validation("kubernetes")


def test_vertex_has_no_place_for_it(tmp_path):
    with pytest.raises(ConfigError, match="infra_validation is docker, and containers of Vertex AI can start neither Docker nor pods"):
        compile_job(config_from_dict({**BASE, "infra_validation": "docker"}), tmp_path / "job.json", "image", "gs://bucket/runs")
