"""What a step has to compute, beside what the devices could."""

import functools
import os
import time

import tensorflow as tf

from gemma_tf_distill.gemma.flops import training_flops
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.monitoring.distillation_metrics import Work
from gemma_tf_distill.training.strategies import compiles_itself
from gemma_tf_distill.xla.chips import CHIPS, Chip

# Sides of the square matrices that are multiplied: large enough for the device to show what it can, small enough to take no time.
_SIDES = {"CPU": 1024, "GPU": 4096, "TPU": 4096}
_ROUNDS = 5


def work_of(strategy: tf.distribute.Strategy, student: Gemma, teacher: Gemma | None, windows: int, tokens: int) -> Work:
    """A step's operations, as `gemma.flops` counts them, and the peak of all devices together.

    A TPU's peak is its maker's figure; that of other devices is measured by a product of matrices in the student's compute dtype, so that
    on a CPU that others use, too, a share above 1 is possible.

    Args:
      strategy: whose devices share a step.
      student: the model that learns.
      teacher: where its forward pass is a part of the step, on the same devices; else none.
      windows: of a batch, over all replicas.
      tokens: of that batch, padding and `<bos>` included.
    """
    predictions = tokens // windows - 1
    flops = training_flops(student.backbone.get_config(), predictions)
    if teacher is not None:
        flops += training_flops(teacher.backbone.get_config(), predictions) / 3
    peak = _peak(strategy, student.backbone.dtype_policy.compute_dtype)
    return Work(windows * predictions * flops, strategy.num_replicas_in_sync * peak)


def _peak(strategy: tf.distribute.Strategy, dtype: str) -> float:
    chip = chip_under(strategy)
    if chip is not None:
        return chip.flops_per_second
    device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
    device = "TPU:0" if compiles_itself(strategy) else device
    # One CPU that was cut into pieces has its cores once.
    pieces = len(strategy.extended.worker_devices) if device == "CPU:0" and strategy.num_replicas_in_sync > 1 else 1
    return measured_flops_per_second(device, dtype) / pieces


def chip_under(strategy: tf.distribute.Strategy) -> Chip | None:
    """The kind of TPU chip that trains, as its host's environment names it; none on other devices, and where it is not named."""
    # Such as v5litepod-8, v5p-8, v6e-4.
    kind = os.environ.get("TPU_ACCELERATOR_TYPE", "").split("-")[0].replace("v5litepod", "v5e")
    return CHIPS.get(kind) if compiles_itself(strategy) else None


@functools.cache
def measured_flops_per_second(device: str, dtype: str) -> float:
    """Operations a second of a product of square matrices, the best of five; some tenths of a second, once a process.

    Args:
      device: such as `CPU:0`.
      dtype: of the matrices.
    """
    side = _SIDES[device.split(":")[0]]
    with tf.device(device):
        matrix = tf.ones([side, side], dtype)

        @tf.function(autograph=False)
        def product() -> tf.Tensor:
            # One number of it is read, so that the device has ended when the clock is looked at.
            return tf.matmul(matrix, matrix)[0, 0]

        product().numpy()
        seconds = []
        for _ in range(_ROUNDS):
            begun = time.perf_counter()
            product().numpy()
            seconds.append(time.perf_counter() - begun)
    return 2.0 * side**3 / min(seconds)
