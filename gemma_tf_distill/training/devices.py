"""A model on a device that the config names."""

import keras
import tensorflow as tf

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.model import Gemma, new_backbone


def check_teacher_device(name: str | None) -> None:
    """Raises ConfigError if `training.teacher_device` names a device that TensorFlow does not have here; none is always there."""
    known = device_names()
    if name is not None and name not in known:
        split = " (one CPU is several after tf.config.set_logical_device_configuration)" if name.startswith("CPU") else ""
        raise ConfigError(f"training.teacher_device is {name}, but the devices here are {', '.join(known)}{split}: choose one, or null")


def device_names() -> list[str]:
    """The devices of this process, such as `CPU:0` and `GPU:1`."""
    return [short_name(device.name) for device in tf.config.list_logical_devices()]


def short_name(device: str) -> str:
    """`GPU:1` of TensorFlow's `/job:localhost/replica:0/task:0/device:GPU:1`."""
    return device.rpartition("device:")[2]


def device_of(model: Gemma) -> str:
    """TensorFlow's name of the device where a model's weights lie."""
    return model.backbone.token_embedding.embeddings.value.device


def on_device(model: Gemma, device: str | None) -> Gemma:
    """A copy of a model whose weights lie on a device such as `GPU:1`; the model itself where they do already, or for none."""
    if device is None or short_name(device_of(model)) == device:
        return model
    with tf.device(device):
        backbone = new_backbone(model, dtype=keras.DTypePolicy(model.backbone.dtype_policy.name))
        for target, source in zip(backbone.weights, model.backbone.weights, strict=True):
            target.assign(source)
    return Gemma(backbone, model.tokenizer)
