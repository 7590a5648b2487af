"""The devices that share a batch, as TensorFlow's strategies, and what a batch is to each of them."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from gemma_tf_distill.config import StrategyConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.xla.attached import DEVICES, attached_chips

Batch = Mapping[str, tf.Tensor]

_SETUP = "set the TPU VM up with TENSORFLOW=tpu, and see that no other process holds its chips"


def make_strategy(config: StrategyConfig) -> tf.distribute.Strategy:
    """The strategy of a config. To be called once in a process, before anything else of TensorFlow runs.

    Raises:
      ConfigError: if there is no TPU (what was tried), fewer devices than asked for, or no usable `TF_CONFIG`.
    """
    if config.name == "tpu":
        return _tpu(config.tpu)
    if config.name == "multi_worker":
        return _multi_worker()
    if config.name == "mirrored":
        return tf.distribute.MirroredStrategy(_mirrored_devices(config.devices))
    return tf.distribute.get_strategy()


def _tpu(name: str) -> tf.distribute.Strategy:
    if name == "local" and not attached_chips():
        raise ConfigError(f"strategy.tpu is local, but this machine has no TPU (no {' and no '.join(DEVICES)}): {_advice()}")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    # Names are looked up by Google's API client or urllib, addresses by gRPC: each has errors of its own.
    except (tf.errors.OpError, OSError, ValueError, RuntimeError, ImportError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"strategy.tpu is {name}, and TPUClusterResolver found no TPU there ({said}): {_advice()}") from error
    strategy = tf.distribute.TPUStrategy(resolver)
    hosts = strategy.extended.num_hosts
    if hosts > 1:
        raise ConfigError(
            f"strategy.tpu is {name}, a slice of {hosts} hosts; stored targets are decoded by Python, which the other hosts don't run: "
            "choose a slice of one host, such as v5e:2x4"
        )
    return strategy


def _advice() -> str:
    return f"{_SETUP}; elsewhere gemma-distill run CONFIG --until TeacherScorer makes what it trains on"


def _mirrored_devices(wanted: int | None) -> list[str]:
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU" and wanted:
        _split_cpu(wanted)
    there = [device.name for device in tf.config.list_logical_devices(kind)]
    if wanted and wanted > len(there):
        began = ", and TensorFlow has begun, after which it splits none" if kind == "CPU" else ""
        raise ConfigError(f"strategy.devices is {wanted}, but there are {len(there)} {kind}s{began}: choose at most as many")
    return there[:wanted]


def _split_cpu(pieces: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * pieces)
    except RuntimeError:
        # TensorFlow has begun, perhaps with enough pieces: they are counted by whoever asked.
        return


def _multi_worker() -> tf.distribute.Strategy:
    cluster, kind, index = read_tf_config(os.environ.get("TF_CONFIG"))
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"no cluster could be made with {cluster[kind][index]} as {kind} {index} ({said}): correct TF_CONFIG") from error


def read_tf_config(text: str | None) -> tuple[dict[str, list[str]], str, int]:
    """What `TF_CONFIG` says: the addresses of each kind of task, and the kind and index of this process.

    Raises:
      ConfigError: if it is missing, or not that.
    """
    example = '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, "task": {"type": "worker", "index": 0}}'
    if not text:
        raise ConfigError(f"strategy.name is multi_worker, but TF_CONFIG is not set: set it on each machine, such as {example}")
    try:
        values = json.loads(text)
        cluster = {kind: list(addresses) for kind, addresses in values["cluster"].items()}
        kind, index = values["task"]["type"], int(values["task"]["index"])
        known = kind in ("chief", "worker") and 0 <= index < len(cluster[kind])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"TF_CONFIG is {text[:200]!r}, which names no cluster and task: set it as {example}") from error
    if not known or not cluster.keys() <= {"chief", "worker"}:
        raise ConfigError(f"TF_CONFIG is {text[:200]!r}, whose task is no chief or worker of its cluster: set it as {example}")
    return cluster, kind, index


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes checkpoints, figures and the student."""
    return bool(strategy.extended.should_checkpoint)


def compiles_itself(strategy: tf.distribute.Strategy) -> bool:
    """Whether `strategy.run` is compiled by XLA as a whole, sums over replicas included."""
    return isinstance(strategy, tf.distribute.TPUStrategy)


def compiled_replica(function: Callable[..., Any], strategy: tf.distribute.Strategy) -> Callable[..., Any]:
    """A function without sums over replicas, compiled by XLA where the strategy doesn't do it."""
    return function if compiles_itself(strategy) else tf.function(function, jit_compile=True, autograph=False)


def distributed(strategy: tf.distribute.Strategy, batches: tf.data.Dataset) -> Any:
    """Global batches [B, ...], of which replica r of R reads the r-th share [B / R, ...]; the same object where there is one replica.

    Every process reads all of `batches`, which must be the same in each, and keeps its replicas' rows.
    """
    if strategy.num_replicas_in_sync == 1:
        return batches
    return strategy.distribute_datasets_from_function(lambda context: shares(batches, context))


def shares(batches: tf.data.Dataset, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """The shares [B / R, ...] of a process's replicas, one after the other, of global batches [B, ...]."""
    local = context.num_replicas_in_sync // context.num_input_pipelines
    first = context.input_pipeline_id * local

    def cut(batch: Batch) -> Batch:
        def rows(value: tf.Tensor) -> tf.Tensor:
            share = value.shape[0] // context.num_replicas_in_sync
            return tf.reshape(value[first * share : (first + local) * share], [local, share, *value.shape[1:]])

        return {name: rows(value) for name, value in batch.items()}

    return batches.map(cut).unbatch().prefetch(2 * local)


def first_replica(strategy: tf.distribute.Strategy, values: Any) -> Any:
    """What all replicas know alike, as it is on the first one of this process."""
    return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], values)
