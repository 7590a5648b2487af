"""The TPU's own compiler on a machine without a TPU: what a compiled step would take of a chip's memory.

jax ships that compiler (libtpu) and can describe a topology that is not there. TensorFlow lowers a function to HLO, jax compiles it.
Nothing runs.
"""

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from gemma_tf_distill.errors import ConfigError, MissingExtraError, UserError
from gemma_tf_distill.xla.hlo import HloProgram

# libtpu looks for the TPU that it runs on; these tell it not to ask the cloud's metadata server. jax itself stays on the CPU.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_PLATFORMS": "cpu",
    # Nothing is run, so that several processes may compile at the same time.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
FULL_EFFORT, LEAST_EFFORT = 0.0, -1.0
_EXCEEDED = re.compile(r"Ran out of memory.*?\(?(\d+(?:\.\d+)?)([KMGT])\)? (?:of|exceeds)", re.DOTALL)
# TensorFlow copies variables that it reads; StableHLO has no such operation, and a reshape to the same shape is one that does nothing.
_COPY = re.compile(r"mhlo\.copy (%\w+)(?: \{[^}]*\})? : (tensor<[^>]*>)")


class TpuMemory(NamedTuple):
    """Bytes of a chip's memory that a compiled program takes, as the compiler planned it.

    Attributes:
      temporaries: what lives between arguments and results, at its peak.
      arguments: of all arguments.
      outputs: of all results.
      aliased: of results that are written over arguments.
      code: of the program itself.
    """

    temporaries: int
    arguments: int
    outputs: int
    aliased: int
    code: int

    @property
    def total(self) -> int:
        """All of it, what is written over counted once."""
        return self.temporaries + self.arguments + self.outputs - self.aliased + self.code


class TpuExecutable(NamedTuple):
    """A program that was compiled for a TPU.

    Attributes:
      memory: that it takes.
      hlo: the program as the compiler left it.
    """

    memory: TpuMemory
    hlo: HloProgram


class DoesNotFitError(Exception):
    """A program needs more memory than a chip has.

    Attributes:
      temporaries: bytes of them, as the compiler says; it rounds to 10 MiB.
    """

    def __init__(self, message: str, temporaries: int):
        """Keeps the compiler's own words and its figure."""
        super().__init__(message)
        self.temporaries = temporaries


def tpu_memory(function: Any, *specs: tf.TensorSpec, topology: str = "v5e:2x2") -> TpuMemory:
    """Compiles a function for one chip.

    Args:
      function: a `tf.function` with `jit_compile=True`.
      *specs: its arguments, of static shape.
      topology: chips as jax names them, generation and grid.

    Raises:
      MissingExtraError: if jax or libtpu is not installed.
      DoesNotFitError: if the program does not fit the chip; the compiler says by how much.
    """
    _require_compiler()
    return compile_for_tpu(lowered(function, *specs), topology).memory


def lowered(function: Any, *specs: tf.TensorSpec) -> HloProgram:
    """The program of a function, before the compiler's passes; arguments as of `tpu_memory`."""
    # The serialized HLO, since the text of TensorFlow's StableHLO does not parse in jax' version.
    return HloProgram(function.experimental_get_compiler_ir(*specs)(stage="hlo_serialized"))


def compile_for_tpu(program: HloProgram, topology: str, *, updated: int = 0, effort: float = FULL_EFFORT) -> TpuExecutable:
    """Compiles a program for one device of a topology.

    Args:
      program: before the compiler's passes.
      topology: as jax names them.
      updated: how many of the first results are written over the arguments of the same number.
      effort: XLA's `exec_time_optimization_effort`: `FULL_EFFORT` is what a TPU's own run has, `LEAST_EFFORT` compiles in less
        than half the time.

    Raises:
      ConfigError: for a topology that libtpu does not know.
      MissingExtraError: if jax or libtpu is not installed.
      DoesNotFitError: if the program does not fit the chip's memory.
      UserError: if the compiler refuses it otherwise; some shapes exceed the memory on the chip itself.
    """
    executable = _compile(program.aliased(updated), _topology(topology).devices[0], effort)
    stats = executable.get_compiled_memory_stats()
    (module,) = executable.hlo_modules()
    memory = TpuMemory(
        stats.temp_size_in_bytes,
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    return TpuExecutable(memory, HloProgram(module.as_serialized_hlo_module_proto()))


def device_count(topology: str) -> int:
    """Devices of a topology; raises ConfigError and MissingExtraError as `compile_for_tpu` does."""
    return len(_topology(topology).devices)


def _require_compiler() -> None:
    for module in ("jax", "libtpu"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, "tpu", "compiling for a TPU")


@functools.cache
def _topology(topology: str) -> Any:
    _require_compiler()
    try:
        # libtpu reads them when it is loaded, and never again.
        with _environment(_ENVIRONMENT):
            from jax.errors import JaxRuntimeError
            from jax.experimental import topologies

            return topologies.get_topology_desc(topology, "tpu")
    except JaxRuntimeError as error:
        raise ConfigError(
            f"libtpu knows no topology {topology!r} ({' '.join(str(error).split())}): give a generation and a grid of whole hosts, "
            "such as v5e:2x2, v5e:2x4, v5e:4x4, v6e:2x4 or v5p:2x2x1"
        ) from error


def _compile(hlo: bytes, device: Any, effort: float) -> Any:
    import numpy as np
    from jax.errors import JaxRuntimeError
    from jax.interpreters import mlir
    from jaxlib import xla_client
    from jaxlib.mlir import ir

    text = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(hlo))
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    options.executable_build_options.exec_time_optimization_effort = effort
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
    with mlir.make_ir_context():
        module = ir.Module.parse(_COPY.sub(r"stablehlo.reshape \1 : (\2) -> \2", text))
        try:
            return device.client.compile(module, xla_client.DeviceList((device,)), options)
        except JaxRuntimeError as error:
            if exceeded := _EXCEEDED.search(str(error)):
                number, unit = exceeded.groups()
                raise DoesNotFitError(str(error), round(float(number) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[unit])) from error
            said = next((line for line in str(error).splitlines() if "Ran out of memory" in line), str(error).splitlines()[0])
            raise UserError(
                f"the TPU's compiler can't compile this program ({said[:200]}): choose another corpus.window, batch size or accumulation"
            ) from error


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
