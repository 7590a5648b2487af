"""The TPU's own compiler on a machine without a TPU: what a compiled step would take of a chip's memory.

jax ships that compiler (libtpu) and can describe a topology that is not there. TensorFlow lowers a function to HLO, jax compiles it.
Nothing runs.
"""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from gemma_tf_distill.errors import MissingExtraError

# libtpu looks for the TPU that it runs on; these tell it not to ask the cloud's metadata server. jax itself stays on the CPU.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_PLATFORMS": "cpu",
}
# TensorFlow copies variables that it reads; StableHLO has no such operation, and a reshape to the same shape is one that does nothing.
_COPY = re.compile(r"mhlo\.copy (%\w+)(?: \{[^}]*\})? : (tensor<[^>]*>)")


class TpuMemory(NamedTuple):
    """Bytes of a chip's memory that a compiled program takes, as the compiler planned it.

    Attributes:
      temporaries: what lives between arguments and results, at its peak.
      arguments: of all arguments.
      outputs: of all results.
      aliased: of results that are written over arguments.
    """

    temporaries: int
    arguments: int
    outputs: int
    aliased: int


def tpu_memory(function: Any, *specs: tf.TensorSpec, topology: str = "v5e:2x2") -> TpuMemory:
    """Compiles a function for one chip.

    Args:
      function: a `tf.function` with `jit_compile=True`.
      *specs: its arguments, of static shape.
      topology: chips as jax names them, generation and grid.

    Raises:
      MissingExtraError: if jax or libtpu is not installed.
      jax.errors.JaxRuntimeError: if the program does not fit the chip; the compiler says by how much.
    """
    for module in ("jax", "libtpu"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, "tpu", "compiling for a TPU")
    # The serialized HLO, since the text of TensorFlow's StableHLO does not parse in jax' version.
    hlo = function.experimental_get_compiler_ir(*specs)(stage="hlo_serialized")
    with _environment(_ENVIRONMENT):
        stats = _compile(hlo, topology).get_compiled_memory_stats()
    return TpuMemory(stats.temp_size_in_bytes, stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.alias_size_in_bytes)


def _compile(hlo: bytes, topology: str) -> Any:
    import numpy as np
    from jax.experimental import topologies
    from jax.interpreters import mlir
    from jaxlib import xla_client
    from jaxlib.mlir import ir

    device = topologies.get_topology_desc(topology, "tpu").devices[0]
    text = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(hlo))
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
    with mlir.make_ir_context():
        module = ir.Module.parse(_COPY.sub(r"stablehlo.reshape \1 : (\2) -> \2", text))
        return device.client.compile(module, xla_client.DeviceList((device,)), options)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for the time being."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
