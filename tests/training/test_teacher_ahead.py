"""A teacher on its own device: the same student, and work at the same time."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, HiddenStatesConfig, TrainingConfig, config_from_dict
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.training.devices import check_teacher_device, on_device
from gemma_tf_distill.training.layer_pairs import LayerPairs
from gemma_tf_distill.training.loop import Run, fit
from gemma_tf_distill.training.teacher_ahead import TeacherAhead
from gemma_tf_distill.training.teacher_outputs import TeacherElsewhere, teacher_outputs

SCRIPT = pathlib.Path(__file__).with_name("teacher_ahead_script.py")


@pytest.fixture(scope="module")
def found(tiny_tokenizer, tmp_path_factory):
    """What `teacher_ahead_script.py` found on two devices."""
    folder = tmp_path_factory.mktemp("ahead")
    (folder / "tokenizer.model").write_bytes(tiny_tokenizer.proto)
    # Half the time is the compiler's, and nothing here is about fast code.
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"}
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# Everything that is compared, schedules and parts under XLA; stored targets with a compared layer and batches of the student's own.
@pytest.mark.slow
@pytest.mark.parametrize("case", ["dense", "stored"])
def test_the_student_is_the_same(found, case):
    assert found[case]["difference"] <= 1e-6
    assert found[case]["moved"] > 1e-3


@pytest.mark.slow
def test_the_profile_shows_the_teacher_on_the_next_batch_during_a_step(found):
    teacher, student = found["spans"]["teacher_ahead"], found["spans"]["student_step"]
    assert len(teacher) == len(student) == 3
    for n, (begun, ended) in enumerate(student):
        assert teacher[n][1] <= begun
        if n + 1 < len(teacher):
            assert max(begun, teacher[n + 1][0]) < min(ended, teacher[n + 1][1])


@pytest.mark.slow
def test_errors_surface_as_themselves_and_in_turn(found):
    assert found["lost"] == ["Lost: the second batch", 1]
    message, count = found["memory"]
    assert count == 0
    assert message.startswith(
        "ConfigError: with training.teacher_device up to 0.3 MiB of the teacher's outputs are held at once, and 0.1 MiB"
    )
    assert found["students"] == ["ConfigError: training.teacher_device is CPU:0, where the student trains: choose CPU:1, or null", 0]
    unknown = "ConfigError: training.teacher_device is GPU:1, but the devices here are CPU:0, CPU:1: choose one, or null"
    assert found["unknown"] == [unknown, 0]
    assert found["threads"] == []


def test_devices_that_are_not_there(tiny_teacher, make_student):
    with pytest.raises(ConfigError, match=r"is CPU:1, but the devices here are CPU:0 \(one CPU is several after .*\): choose one, or null"):
        check_teacher_device("CPU:1")
    with pytest.raises(ConfigError, match=r"is CPU:0, where the student trains: set it to null, there is no other device"):
        TeacherAhead(tiny_teacher, "CPU:0", make_student(), distillation=DistillationConfig(targets="dense"), pairs=LayerPairs())
    assert on_device(tiny_teacher, "CPU:0") is tiny_teacher


def test_configs_that_contradict_themselves(make_student, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.teacher_device must be a device such as GPU:1, CPU:0 or TPU:1, or null, not 'gpu1'"):
        TrainingConfig(teacher_device="gpu1")
    values = {"name": "two", "training": {"teacher_device": "GPU:1"}}
    with pytest.raises(ConfigError, match=r"training\.teacher_device must be null where nothing is learned from a live teacher"):
        config_from_dict(values)
    assert config_from_dict({**values, "distillation": {"targets": "dense"}}).training.teacher_device == "GPU:1"
    with pytest.raises(ConfigError, match=r"training\.teacher_device is GPU:1, but there is no live teacher: set it to null"):
        fit(
            make_student(),
            Run(name="student", learn_from_teacher=True, checkpoints=str(tmp_path), tensorboard=str(tmp_path)),
            lambda skip: tf.data.Dataset.range(0),
            training=TrainingConfig(teacher_device="GPU:1"),
            distillation=DistillationConfig(targets="dense"),
            total_steps=1,
        )


def test_a_batch_without_what_the_teacher_gave_is_refused(tiny_teacher, make_student):
    pairs = LayerPairs.of(
        DistillationConfig(hidden_states=HiddenStatesConfig(weight=1.0, mapping="last")), tiny_teacher, make_student(), seed=0
    )
    names = "teacher_states, " + ", ".join(f"teacher_hidden_states_{layer}" for layer in pairs.teacher_hidden_states)
    elsewhere = TeacherElsewhere(tiny_teacher, None)
    with pytest.raises(ConfigError, match=re.escape(f"the batch brings no {names}: take batches from TeacherAhead")):
        teacher_outputs({"tokens": tf.ones([2, 5], tf.int32)}, elsewhere, pairs, None)
