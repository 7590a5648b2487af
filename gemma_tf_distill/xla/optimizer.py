"""Compiling a function as the config asks for, and seeing what became of it."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from gemma_tf_distill.config import XlaConfig
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.xla.hlo import HloProgram, HloStatistics


class OptimizedGraph(NamedTuple):
    """A compiled function and its figures.

    Attributes:
      function: to be called with tensors of the shapes it was compiled for.
      statistics: of the program that the compiler made for this machine; its products may be calls of a library by then.
      flops: of all products, as the function asks for them.
    """

    function: Callable[..., Any]
    statistics: HloStatistics
    flops: int


class XLAOptimizer:
    """Compiles by XLA, in the scope that a config names.

    Attributes:
      config: scope, flags and cache. Flags and cache are read by XLA when a process compiles first: set them before
        (`XlaConfig.environment`), as the pipeline does for the processes it starts.
    """

    def __init__(self, config: XlaConfig | None = None):
        """Args:
        config: none: the default, whole steps without flags.
        """
        self.config = XlaConfig() if config is None else config

    def compile(self, function: Callable[..., Any]) -> Any:
        """A `tf.function` of a step, compiled by XLA unless the scope is `none`."""
        return tf.function(function, jit_compile=self.config.jit_scope == "step")

    def optimize_graph(self, function: Callable[..., Any], *arguments: Any) -> OptimizedGraph:
        """Compiles a function for this machine.

        Args:
          function: of tensors of static shapes.
          *arguments: the tensors it will be called with, or others of their shapes and dtypes.

        Raises:
          ConfigError: if the scope is `none`, where there is no program to look at.
        """
        if self.config.jit_scope == "none":
            raise ConfigError("xla.jit_scope is none: choose step, since statistics are those of a program that XLA compiled")
        compiled = self.compile(function)
        stages = compiled.experimental_get_compiler_ir(*arguments)
        optimized = HloProgram(stages(stage="optimized_hlo_serialized"))
        return OptimizedGraph(compiled, optimized.statistics(), HloProgram(stages(stage="hlo_serialized")).flops())


def check_flags(config: XlaConfig) -> None:
    """Raises ConfigError if XLA doesn't know a flag: it ends the process, so that one of its own is asked, for some seconds.

    Without flags nothing is started.
    """
    if not config.flags:
        return
    probe = "import tensorflow as tf; tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(1.0))"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env={**os.environ, **config.environment(os.environ)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = next(
            (line.split("] ", 1)[-1] for line in done.stderr.splitlines() if "lag" in line and "XLA_FLAGS" in line), "no reason given"
        )
        raise ConfigError(f"xla.flags are {' '.join(config.flags)}, which XLA refuses ({said.strip()[:200]}): remove or correct them")
