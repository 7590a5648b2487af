"""What is told before anything is computed."""

import socket

import pytest

from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.errors import ConfigError, CorpusError
from tfx_pipeline.checks import check_inputs


@pytest.fixture(scope="module")
def saved_teacher(tiny_teacher, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    tiny_teacher.save(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"cut": {"hidden_dim": 40}}, r"student\.cut\.hidden_dim is 40, but the teacher has 32: choose at most as many"),
        ({"layers": [0, 1], "cut": {"num_query_heads": 3}}, r"student\.cut\.num_query_heads is 3, .*: choose a multiple of 2"),
        ({"layers": [0, 9], "cut": {"hidden_dim": 24}}, r"student\.layers names layer 9, but the teacher has layers 0 to 6"),
    ],
)
def test_a_student_that_the_teacher_can_not_be_made_into(saved_teacher, student, message):
    config = {"name": "checks", "teacher": {"source": saved_teacher}, "corpus": {"source": "docstrings:numpy"}, "student": student}
    with pytest.raises(ConfigError, match=message):
        check_inputs(config_from_dict(config))


@pytest.mark.parametrize(
    ("student", "quantization", "message"),
    [
        (
            {"layers": [0, 1]},
            {"scheme": "int4_block128"},
            r"cuts the inputs of embedding into blocks of 128, but there are 32",
        ),
        (
            {"layers": [0, 1], "cut": {"intermediate_dim": 24}},
            {"scheme": "int4_block32"},
            r"int4_block32 cuts the inputs of layers\.0\.down into blocks of 32, but there are 24",
        ),
        (
            {"layers": [0, 1]},
            {"scheme": "int8_channel", "overrides": {"layers.2.*": "float"}},
            r"quantization\.overrides names 'layers\.2\.\*', which no weight matches: there are embedding and layers\.0 to layers\.1",
        ),
    ],
)
def test_a_scheme_that_the_student_can_not_take(saved_teacher, student, quantization, message):
    config = {"name": "checks", "teacher": {"source": saved_teacher}, "corpus": {"source": "docstrings:numpy"}, "student": student}
    with pytest.raises(ConfigError, match=message):
        check_inputs(config_from_dict({**config, "quantization": quantization}))


def test_a_student_that_is_too_large_for_a_tflite(saved_teacher):
    sizes = {
        "num_layers": 26,
        "hidden_dim": 1152,
        "intermediate_dim": 6912,
        "num_query_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
    }
    config = {
        "name": "checks",
        "teacher": {"source": saved_teacher},
        "corpus": {"source": "docstrings:numpy"},
        "student": {"sizes": sizes},
    }
    with pytest.raises(ConfigError, match=r"the student's weights take 2\.8 GB in float32, and a \.tflite holds 2\.1 GB at the most"):
        check_inputs(config_from_dict(config))
    check_inputs(config_from_dict({**config, "export": {"formats": ["saved_model"]}}))


def test_a_cut_that_fits_passes(saved_teacher):
    student = {"layers": [0, 1], "cut": {"hidden_dim": 24, "intermediate_dim": 48, "num_query_heads": 2}}
    config = {"name": "checks", "teacher": {"source": saved_teacher}, "corpus": {"source": "docstrings:numpy"}, "student": student}
    check_inputs(config_from_dict(config))


def test_prompts_that_are_not_there(saved_teacher):
    config = {"name": "checks", "teacher": {"source": saved_teacher}, "corpus": {"source": "docstrings:numpy"}}
    with pytest.raises(CorpusError, match=r"data_validation\.serving_prompts: none\.txt cannot be read"):
        check_inputs(config_from_dict({**config, "data_validation": {"serving_prompts": "none.txt"}}))


def test_docker_that_is_not_there(saved_teacher, monkeypatch):
    monkeypatch.setenv("PATH", "")
    config = {"name": "checks", "teacher": {"source": saved_teacher}, "corpus": {"source": "docstrings:numpy"}}
    with pytest.raises(ConfigError, match="there is no docker on PATH"):
        check_inputs(config_from_dict({**config, "infra_validation": "docker"}))


def test_a_port_that_is_taken_is_told_before_the_teacher_scores(saved_teacher):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        config = {"name": "checks", "teacher": {"source": saved_teacher}, "training": {"profiler_port": port}}
        with pytest.raises(ConfigError, match=rf"training\.profiler_port is {port}"):
            check_inputs(config_from_dict(config))
