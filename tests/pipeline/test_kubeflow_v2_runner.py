"""The pipeline as a Vertex AI job: compiled for real, submitted by Google's client to a server of our own."""

import http.server
import importlib
import json
import pathlib
import threading

import pytest
import yaml

from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.errors import ConfigError, UserError
from tfx_pipeline import kubeflow_v2_runner
from tfx_pipeline.kubeflow_v2_runner import compile_job, submit_job

CONFIG = config_from_dict({"name": "My_Job", "corpus": {"source": "docstrings:yaml"}, "gates": {"max_heldout_nll": 4.0}})
IMAGE = "registry.example/team/gemma-tf-distill:0.1.0"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> tuple[pathlib.Path, dict]:
    path = tmp_path_factory.mktemp("vertex") / "job.json"
    return path, compile_job(CONFIG, path, IMAGE, "gs://bucket/runs/")


def load(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_the_job_is_written_and_every_component_runs_in_our_image(compiled):
    path, job = compiled
    assert json.loads(path.read_text()) == job
    spec = job["pipelineSpec"]
    # Vertex wants lower case letters, digits and hyphens.
    assert spec["pipelineInfo"]["name"] == "my-job"
    assert job["runtimeConfig"]["gcsOutputDirectory"] == "gs://bucket/runs"
    containers = {name: executor["container"] for name, executor in spec["deploymentSpec"]["executors"].items() if "container" in executor}
    assert len(containers) == 10
    for container in containers.values():
        assert container["image"] == IMAGE
        # Its components print what Cloud Logging takes for entries.
        assert container["env"] == [{"name": "GEMMA_DISTILL_LOG", "value": "json"}]
        arguments = container["args"]
        # The container imports the executor by this path.
        assert callable(load(arguments[arguments.index("--executor_class_path") + 1]))


def test_artifact_types_are_found_by_their_titles(compiled):
    schemas = {
        artifact["artifactType"]["instanceSchema"]
        for component in compiled[1]["pipelineSpec"]["components"].values()
        for definitions in ("inputDefinitions", "outputDefinitions")
        for artifact in component.get(definitions, {}).get("artifacts", {}).values()
    }
    titles = {yaml.safe_load(schema)["title"] for schema in schemas}
    own = {title for title in titles if not title.startswith("tfx.")}
    assert own == {"components.Tokenizer", "components.Student"}
    for title in own:
        assert title == load(title).TYPE_NAME


def test_models_are_pushed_below_the_pipeline_root(compiled):
    pusher = compiled[1]["pipelineSpec"]["root"]["dag"]["tasks"]["Pusher"]["inputs"]["parameters"]
    assert pusher["push_directory"]["runtimeValue"]["constantValue"]["stringValue"] == "gs://bucket/runs/pushed"
    assert json.loads(pusher["config"]["runtimeValue"]["constantValue"]["stringValue"]) == CONFIG.to_dict()


@pytest.mark.parametrize("root", ["bucket/runs", "/tmp/runs", "gs://", "s3://bucket", ""])
def test_the_pipeline_root_must_be_in_a_bucket(tmp_path, root):
    with pytest.raises(ConfigError, match="--pipeline-root must be a gs:// address"):
        compile_job(CONFIG, tmp_path / "job.json", IMAGE, root)
    assert list(tmp_path.iterdir()) == []


def test_the_job_file_must_have_a_place(tmp_path):
    for output in (tmp_path, tmp_path / "none" / "job.json"):
        with pytest.raises(ConfigError, match="can't be written"):
            compile_job(CONFIG, output, IMAGE, "gs://bucket")


class PipelineService(http.server.BaseHTTPRequestHandler):
    """As much of Vertex AI's as creating a job needs."""

    requests: list[tuple[str, dict]] = []
    status = 200

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).requests.append((self.path, body))
        answer = {**body, "name": f"projects/1/locations/here/pipelineJobs/{body['displayName']}", "state": "PIPELINE_STATE_PENDING"}
        content = json.dumps(answer if self.status == 200 else {"error": {"code": self.status, "message": "no such\nproject"}}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def service(monkeypatch):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform
    from google.cloud.aiplatform.utils import gcs_utils

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), PipelineService)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    PipelineService.requests, PipelineService.status = [], 200
    # There is no bucket here, and the client would try for a minute to find out.
    monkeypatch.setattr(gcs_utils, "create_gcs_bucket_for_pipeline_artifacts_if_it_does_not_exist", lambda **kwargs: None)
    aiplatform.init(credentials=AnonymousCredentials(), api_endpoint=f"http://127.0.0.1:{server.server_port}", api_transport="rest")
    yield PipelineService
    server.shutdown()
    server.server_close()


def test_the_job_reaches_vertex_as_it_was_compiled(compiled, service):
    path, job = compiled
    name = submit_job(path, "my-project", "europe-west4", "runner@my-project.example")
    assert name == "projects/1/locations/here/pipelineJobs/my-job"
    [(address, body)] = service.requests
    assert address.startswith("/v1/projects/my-project/locations/europe-west4/pipelineJobs?")
    assert body["pipelineSpec"] == job["pipelineSpec"]
    assert body["runtimeConfig"]["gcsOutputDirectory"] == "gs://bucket/runs"
    assert body["serviceAccount"] == "runner@my-project.example"


def test_a_refusal_is_one_line(compiled, service):
    service.status = 403
    with pytest.raises(UserError, match=r"Vertex AI did not take the job: .*no such project") as caught:
        submit_job(compiled[0], "my-project", "europe-west4")
    assert "\n" not in str(caught.value)


def test_the_command(compiled, service, tmp_path, capsys):
    arguments = ["--config-json", CONFIG.to_json(), "--output", str(tmp_path / "job.json")]
    assert kubeflow_v2_runner.main(arguments) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("submitting to Vertex AI needs --image, --pipeline-root, --project, --region")
    )
    assert not (tmp_path / "job.json").exists()

    assert kubeflow_v2_runner.main([*arguments, "--dry-run"]) == 0
    assert "gs://YOUR-BUCKET/My_Job" in capsys.readouterr().out
    assert service.requests == []

    cloud = ["--image", IMAGE, "--pipeline-root", "gs://bucket/runs", "--project", "my-project", "--region", "europe-west4"]
    assert kubeflow_v2_runner.main([*arguments, *cloud]) == 0
    assert "submitted projects/1/locations/here/pipelineJobs/my-job" in capsys.readouterr().out
    assert len(service.requests) == 1


@pytest.mark.parametrize("blessed", [0, 1])
def test_the_container_runs_our_pusher(compiled, tmp_path, monkeypatch, capsys, blessed):
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    from components.pusher import manifest
    from tests.components.test_pusher import make_inputs

    monkeypatch.setattr(manifest, "read_metrics", lambda uri: {"overall": {}})
    make_inputs(tmp_path, blessed=True)
    spec = compiled[1]["pipelineSpec"]["components"]["Pusher"]

    def artifacts(definitions: str) -> dict:
        return {
            name: {
                "artifacts": [
                    {
                        "name": f"projects/1/artifacts/{name}",
                        "uri": str(tmp_path / name),
                        "type": definition["artifactType"],
                        "metadata": {"blessed": blessed} if name == "model_blessing" else {},
                    }
                ]
            }
            for name, definition in spec[definitions]["artifacts"].items()
        }

    parameters = {"push_directory": str(tmp_path / "pushed"), "config": CONFIG.to_json(), "source_digest": "abc"}
    call = {
        "inputs": {
            "artifacts": artifacts("inputDefinitions"),
            "parameters": {name: {"stringValue": value} for name, value in parameters.items()},
        },
        "outputs": {"artifacts": artifacts("outputDefinitions"), "outputFile": str(tmp_path / "task" / "executor_output.json")},
    }
    # Vertex puts the call in the place of {{$}} in the container's arguments.
    container = compiled[1]["pipelineSpec"]["deploymentSpec"]["executors"]["Pusher_executor"]["container"]
    filled = [json.dumps(call) if argument == "{{$}}" else argument for argument in container["args"]]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    kubeflow_v2_run_executor.main(kubeflow_v2_run_executor._parse_flags(["", *filled]))

    said = json.loads((tmp_path / "task" / "executor_output.json").read_text())["artifacts"]["pushed_model"]["artifacts"][0]
    assert said["metadata"]["pushed"] == blessed
    assert (tmp_path / "pushed").exists() == bool(blessed)
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    copied = [entry for entry in entries if entry["event"] == "progress" and entry["message"].startswith("copying to ")]
    assert bool(copied) == bool(blessed)
    assert {entry["severity"] for entry in entries} <= {"INFO"}
