"""The section `xla`: what the compiler is asked for."""

import dataclasses
from collections.abc import Mapping

from gemma_tf_distill.config.checking import check

JIT_SCOPES = ("step", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class XlaConfig:
    """What XLA compiles, and how. The effect of each is in docs/benchmarks.md.

    Attributes:
      jit_scope: `step` (a whole training step is one program; on TPUs always), or `none` (TensorFlow runs operation by operation).
      flags: of XLA (`XLA_FLAGS`), such as `--xla_cpu_enable_fast_math=true` (fusion, layout), or on GPUs `--xla_gpu_autotune_level=4`
        (autotuning). They hold for the whole process that trains.
      cache_dir: a local folder where compiled programs are kept, so that the next run with the same step does not compile it again;
        none: nowhere.
    """

    jit_scope: str = "step"
    flags: tuple[str, ...] = ()
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        check(self.jit_scope in JIT_SCOPES, "xla.jit_scope", " or ".join(JIT_SCOPES), self.jit_scope)
        for flag in self.flags:
            check(
                flag.startswith("--xla_") and not any(c.isspace() for c in flag),
                "xla.flags",
                "a list of texts such as --xla_name=value",
                flag,
            )
        local = self.cache_dir is None or ("://" not in self.cache_dir and not any(c.isspace() for c in self.cache_dir.strip() or " "))
        check(local, "xla.cache_dir", "a local folder without spaces, or null", self.cache_dir)

    def environment(self, around: Mapping[str, str]) -> dict[str, str]:
        """The variables that make it so in a process which has not compiled anything yet.

        Args:
          around: what is set already, which is kept; of a flag that is given twice XLA takes the last.
        """
        wanted = {
            "XLA_FLAGS": self.flags,
            "TF_XLA_FLAGS": () if self.cache_dir is None else (f"--tf_xla_persistent_cache_directory={self.cache_dir}",),
        }
        return {name: " ".join([*around.get(name, "").split(), *flags]) for name, flags in wanted.items() if flags}
