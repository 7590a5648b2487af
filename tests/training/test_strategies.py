"""Two devices train what one does, bit for bit the same with several steps a call; what no strategy can do is told."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, StrategyConfig, TrainingConfig, config_from_dict
from gemma_tf_distill.data.batches import training_batches
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.training.loop import Run, fit
from gemma_tf_distill.training.strategies import make_strategy
from gemma_tf_distill.xla import attached

MIRRORED = """
    import json, pathlib, sys
    from gemma_tf_distill.config import DistillationConfig, StrategyConfig, TrainingConfig
    from gemma_tf_distill.training.strategies import make_strategy, shares
    mirrored = make_strategy(StrategyConfig(name="mirrored", devices=2))

    import keras_hub, numpy as np, tensorflow as tf
    from gemma_tf_distill.gemma.model import Gemma
    from gemma_tf_distill.training.loop import Run, fit
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, WINDOW, WORDS = pathlib.Path(sys.argv[1]), 10, 40
    random = np.random.default_rng(0)
    tokens = random.integers(4, WORDS, size=(20, WINDOW)).astype("int32")
    tokens[:, 0], tokens[::3, 4:] = 2, 0  # very different numbers of tokens that count
    DATA = {
        "tokens": tokens,
        "teacher_ids": np.tile(np.arange(4, 7, dtype="int32"), (20, WINDOW - 1, 1)),
        "teacher_log_probs": np.full((20, WINDOW - 1, 3), -1.5, "float32"),
    }

    def batches(skip, context=None):
        whole = tf.data.Dataset.from_tensor_slices(DATA).repeat().skip(4 * skip).batch(4, drop_remainder=True)
        return whole if context is None else shares(whole, context)

    class Numbers:
        # A tokenizer whose words are their ids.
        vocabulary_size = WORDS

        def decode(self, ids):
            return " ".join(map(str, ids))

    def student():
        backbone = keras_hub.models.Gemma3Backbone(
            vocabulary_size=WORDS, image_size=None, num_layers=1, num_query_heads=2, num_key_value_heads=1, hidden_dim=16,
            intermediate_dim=16, head_dim=8, use_query_key_norm=True, use_post_ffw_norm=True, use_post_attention_norm=True,
        )
        fixed = np.random.default_rng(1)
        for weight in backbone.weights:
            weight.assign(fixed.normal(size=weight.shape) * 0.2)
        return Gemma(backbone, Numbers())

    def trained(name, strategy, parts, steps):
        with strategy.scope():
            model = student()
        training = TrainingConfig(
            batch_size=4, accumulation_steps=parts, learning_rate=1e-3, layer_dropout=0.5, log_every=3, checkpoint_every=3
        )
        run = Run(name=name, learn_from_teacher=True, checkpoints=str(folder / name), tensorboard=str(folder / "events" / name))
        fit(
            model, run, batches, training=training, distillation=DistillationConfig(top_k=3), total_steps=6, strategy=strategy,
            steps_per_execution=steps,
        )
        return model

    def update_norms(name):
        events = EventAccumulator(str(folder / "events" / name), size_guidance={"tensors": 0})
        events.Reload()
        tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("train/update_norm/")]
        return {f"{tag} {e.step}": float(tf.make_ndarray(e.tensor_proto)) for tag in tags for e in events.Tensors(tag)}

    def difference(a, b):
        return float(max(np.abs(x - y).max() for x, y in zip(a.backbone.get_weights(), b.backbone.get_weights())))

    one = trained("one", tf.distribute.get_strategy(), 2, 1)
    two = trained("two", mirrored, 1, 1)
    norms = [update_norms(name) for name in ("one", "two")]
    # Its checkpoint of the third step is the last that it made: the other three are done again, in one call.
    resumed = trained("two", mirrored, 1, 3)
    found = {"two": difference(one, two), "resumed": difference(two, resumed), "moved": difference(one, student())}
    print(json.dumps({**found, "norms": norms}))
"""


@pytest.mark.slow
def test_two_devices_train_the_student_of_one(tmp_path):
    # In a process of its own: a CPU is split before TensorFlow starts. What is compiled runs for a few steps only.
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MIRRORED), str(tmp_path)],
        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["two"] <= 1e-6 < 1e-3 < found["moved"]
    assert found["resumed"] == 0
    one, two = found["norms"]
    assert one.keys() == two.keys() and len(one) == 4 * 2
    assert two == pytest.approx(one, rel=1e-3) and min(one.values()) >= 0 < max(one.values())


def test_steps_in_one_call_are_the_steps_one_by_one_watched_or_not(scored_windows, make_student, tmp_path):
    one_by_one, together = make_student(num_layers=1), make_student(num_layers=1)
    for student, steps in ((one_by_one, 1), (together, 2)):
        training = TrainingConfig(batch_size=4, learning_rate=5e-3, log_every=2, checkpoint_every=2, monitor=steps == 2)
        folder = tmp_path / str(steps)
        fit(
            student,
            Run(name="student", learn_from_teacher=True, checkpoints=str(folder / "checkpoints"), tensorboard=str(folder / "events")),
            lambda skip: training_batches(scored_windows.files, window=12, top_k=6, batch_size=4, seed=5, skip=skip),
            training=training,
            distillation=DistillationConfig(top_k=6),
            total_steps=5,
            steps_per_execution=steps,
        )
    for got, want in zip(together.backbone.get_weights(), one_by_one.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


def config(**sections):
    return config_from_dict({"name": "test", **sections})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"strategy": {"name": "mirored"}}, "strategy.name must be one_device, mirrored, multi_worker or tpu, not 'mirored'"),
        ({"strategy": {"devices": 2}}, "strategy.devices must be null where strategy.name is one_device, not 2"),
        ({"strategy": {"tpu": "mine"}}, "strategy.tpu must be local where strategy.name is one_device, not 'mine'"),
        ({"strategy": {"steps_per_execution": 0}}, "strategy.steps_per_execution must be at least 1, not 0"),
        (
            {"strategy": {"steps_per_execution": 3}},
            r"training.log_every must be a multiple of strategy.steps_per_execution \(3\), not 5",
        ),
        (
            {"strategy": {"name": "mirrored", "devices": 3}, "training": {"accumulation_steps": 2}},
            "batch_size is 16, which 3 devices with 2 accumulation steps each can't share: choose 12 or 18",
        ),
        (
            {"strategy": {"name": "tpu"}, "quantization": {"scheme": "int4_block32"}},
            "strategy.name must be one_device where the student is",
        ),
        (
            {"strategy": {"name": "mirrored"}, "distillation": {"on_policy": {"fraction": 0.5, "prompt_tokens": 8}}},
            "strategy.name must be one_device where the student writes",
        ),
    ],
)
def test_contradictions_are_told_when_the_config_is_read(sections, message):
    with pytest.raises(ConfigError, match=message):
        config(**sections)


def test_devices_that_are_not_there_are_told(monkeypatch):
    tf.constant(0)  # TensorFlow has begun.
    with pytest.raises(ConfigError, match=r"strategy\.devices is 64, but there are 1 CPUs, and TensorFlow has begun"):
        make_strategy(StrategyConfig(name="mirrored", devices=64))
    with pytest.raises(ConfigError, match=r"this machine has no TPU \(no /dev/accel.*--until TeacherScorer"):
        make_strategy(StrategyConfig(name="tpu"))
    # A chip that TensorFlow can't use, and a name that nobody knows.
    monkeypatch.setattr("gemma_tf_distill.training.strategies.attached_chips", lambda: ["/dev/accel0"])
    with pytest.raises(ConfigError, match=r"strategy.tpu is local, and TPUClusterResolver found no TPU there \(TPUs not found"):
        make_strategy(StrategyConfig(name="tpu"))


def test_a_machine_without_chips_is_not_asked_for_them(monkeypatch, tmp_path):
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(attached, "DEVICES", (f"{tmp_path}/accel[0-9]*",))
    assert attached.attached_chips() == [f"{tmp_path}/accel0"]
    attached.skip_metadata_without_tpu()
    assert "TPU_SKIP_MDS_QUERY" not in os.environ
    (tmp_path / "accel0").unlink()
    attached.skip_metadata_without_tpu()
    assert os.environ.pop("TPU_SKIP_MDS_QUERY") == "1"
