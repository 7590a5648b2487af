"""Run by test_teacher_ahead.py in a process of its own, since one CPU is two devices only where that was said before TensorFlow starts.

Arguments: a folder with the tokenizer's proto, where checkpoints and the profile go, too. Prints what it found as one line of JSON.
"""

import json
import pathlib
import sys
import threading

import keras_hub
import numpy as np
import psutil
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from gemma_tf_distill.config import (
    AttentionMapsConfig,
    DistillationConfig,
    HiddenStatesConfig,
    OnPolicyConfig,
    Schedule,
    TrainingConfig,
    XlaConfig,
)
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.tokenizer import Tokenizer
from gemma_tf_distill.training.layer_pairs import LayerPairs
from gemma_tf_distill.training.loop import Run, fit
from gemma_tf_distill.training.teacher_ahead import TeacherAhead
from gemma_tf_distill.xla.optimizer import XLAOptimizer

FOLDER = pathlib.Path(sys.argv[1])
WINDOW, BATCH, STEPS, TOP_K = 33, 8, 3, 4
DENSE = DistillationConfig(
    targets="dense",
    alpha=Schedule(start=1.0, end=0.5),
    temperature=Schedule(start=2.0, end=1.0),
    hidden_states=HiddenStatesConfig(weight=1.0, mapping="last"),
    attention_maps=AttentionMapsConfig(weight=1.0),
)
STORED = DistillationConfig(
    top_k=TOP_K, hidden_states=HiddenStatesConfig(weight=1.0, mapping="last"), on_policy=OnPolicyConfig(fraction=0.5, prompt_tokens=8)
)
PLAIN = XLAOptimizer(XlaConfig(jit_scope="none"))
PROBE_MEMORY = psutil.virtual_memory


def gemma(tokenizer: Tokenizer, seed: int, layers: int, width: int) -> Gemma:
    backbone = keras_hub.models.Gemma3Backbone(
        vocabulary_size=tokenizer.vocabulary_size,
        image_size=None,
        num_layers=layers,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=width,
        intermediate_dim=4 * width,
        head_dim=16,
        use_query_key_norm=True,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        sliding_window_size=16,
    )
    random = np.random.default_rng(seed)
    for weight in backbone.weights:
        weight.assign(random.normal(scale=0.2, size=weight.shape))
    return Gemma(backbone, tokenizer)


class Models:
    """The same teacher for all, and a student that begins anew with every run."""

    def __init__(self) -> None:
        tokenizer = Tokenizer((FOLDER / "tokenizer.model").read_bytes())
        self.teacher = gemma(tokenizer, 0, 2, 96)
        self.student = gemma(tokenizer, 1, 1, 64)
        self._initial = self.student.backbone.get_weights()
        random = np.random.default_rng(2)
        tokens = random.integers(4, tokenizer.vocabulary_size, size=(STEPS * BATCH, WINDOW)).astype(np.int32)
        tokens[:, 0] = tokenizer.bos_id
        tokens[3, 20:] = tokenizer.pad_id
        words = np.argsort(random.random((STEPS * BATCH, WINDOW - 1, tokenizer.vocabulary_size)))[..., :TOP_K].astype(np.int32)
        log_probs = np.full(words.shape, np.log(0.2), np.float32)
        self.windows = {"tokens": tokens, "teacher_ids": words, "teacher_log_probs": log_probs}

    def batches(self, skip: int) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(self.windows).batch(BATCH, drop_remainder=True).skip(skip)

    def trained(self, name: str, distillation: DistillationConfig, parts: int, device: str | None) -> list[np.ndarray]:
        self.student.backbone.set_weights(self._initial)
        fit(
            self.student,
            Run(name=name, learn_from_teacher=True, checkpoints=str(FOLDER / name), tensorboard=str(FOLDER / "events" / name)),
            self.batches,
            training=TrainingConfig(batch_size=BATCH, accumulation_steps=parts, learning_rate=1e-3, teacher_device=device),
            distillation=distillation,
            total_steps=STEPS,
            teacher=self.teacher,
            seed=3,
        )
        return self.student.backbone.get_weights()

    def moved(self, weights: list[np.ndarray]) -> float:
        return largest_difference(weights, self._initial)


def largest_difference(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))


class Lost(Exception):
    """What reading a batch may raise."""


def losing(batches: tf.data.Dataset):
    """Batches of which the second cannot be read."""
    yield next(iter(batches))
    raise Lost("the second batch")


def spans(name: str) -> list[tuple[int, int]]:
    """Begin and end of a trace's events in the profile, in picoseconds, in order."""
    space, found = xplane_pb2.XSpace(), []
    (path,) = (FOLDER / "profile").rglob("*.xplane.pb")
    space.ParseFromString(path.read_bytes())
    for plane in space.planes:
        names = {key: event.name for key, event in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                if names[event.metadata_id].partition("#")[0] == name:
                    begin = line.timestamp_ns * 1000 + event.offset_ps
                    found.append((begin, begin + event.duration_ps))
    return sorted(found)


def error_of(models: Models, device: str, batches) -> tuple[str, int]:
    """What a loop over a teacher's batches, uncompiled, ends with, and how many came before."""
    count = 0
    try:
        with TeacherAhead(models.teacher, device, models.student, distillation=DENSE, pairs=LayerPairs(), xla=PLAIN) as ahead:
            for _ in ahead.over(batches, lambda index: False):
                count += 1
    except Exception as error:  # Whatever it is, the test looks at its type and text.
        return f"{type(error).__name__}: {error}", count
    return "nothing", count


def main() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    models, found = Models(), {}

    inside = models.trained("inside", DENSE, 2, None)
    tf.profiler.experimental.start(str(FOLDER / "profile"))
    ahead = models.trained("ahead", DENSE, 2, "CPU:1")
    tf.profiler.experimental.stop()
    found["dense"] = {"difference": largest_difference(inside, ahead), "moved": models.moved(inside)}
    found["spans"] = {name: spans(name) for name in ("teacher_ahead", "student_step")}

    inside, ahead = (models.trained(f"stored {device}", STORED, 1, device) for device in (None, "CPU:1"))
    found["stored"] = {"difference": largest_difference(inside, ahead), "moved": models.moved(inside)}

    found["unknown"] = error_of(models, "GPU:1", models.batches(0))
    found["students"] = error_of(models, "CPU:0", models.batches(0))
    found["lost"] = error_of(models, "CPU:1", losing(models.batches(0)))
    psutil.virtual_memory = lambda: PROBE_MEMORY()._replace(available=100_000)
    found["memory"] = error_of(models, "CPU:1", models.batches(0))
    found["threads"] = [thread.name for thread in threading.enumerate() if thread.name.startswith("teacher_ahead")]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
