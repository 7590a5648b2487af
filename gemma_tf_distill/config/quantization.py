"""The section `quantization`: the numbers that the student will run in, and how it is trained for them."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

from gemma_tf_distill.config.checking import check

# Every scheme with the peak learning rate of its training, as a share of that in float. Those of `int4_channel` and `int4_block32` were
# measured on the demo's student (of `int4_channel` twice as much was worse); the finer a lattice, the less there is to mend.
SCHEMES = {
    "int4_channel": 2 / 3,
    "int4_block32": 2 / 3,
    "int4_block64": 2 / 3,
    "int4_block128": 2 / 3,
    "int4_block256": 2 / 3,
    "int8_channel": 1 / 3,
    "fp8_e4m3": 1 / 3,
}
# What an override may name beside the schemes: the weight stays as it is.
FLOAT = "float"
ACTIVATIONS = ("dynamic_int8", "dynamic_int8_symmetric", "fp8", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """Training for the numbers of a runtime, after the training in float32.

    Attributes:
      scheme: of every matrix and the tied embedding: `int4_channel`, `int4_block32` (64, 128, 256), `int8_channel` or `fp8_e4m3`; none:
        the student stays in float32.
      overrides: other schemes, or `float`, for some weights: patterns (`fnmatch`) over their names to schemes, such as
        `embedding: int8_channel` or `layers.*.down: int8_channel`. Of several patterns that match, the longest counts.
      activations: what enters each product: `dynamic_int8` (a scale and zero point for each token, as LiteRT's CPU kernels do it),
        `dynamic_int8_symmetric` (a scale only), `fp8` (E4M3, and E5M2 for the gradients of each product, with delayed scaling) or
        `none`. Null: `dynamic_int8`, and `fp8` where the scheme is `fp8_e4m3`.
      epochs: passes over the training windows; a fraction is allowed, and 0 is plain post-training quantisation.
      batch_size: windows a step; none: as many as in float. Coarse lattices gain by more and smaller steps.
      learning_rate: its peak; none: the scheme's own share of `training.learning_rate`, 2/3 for 4 bits and 1/3 for 8.
      freeze_fraction: share of the steps, the last ones, in which scales no longer follow their weights.
      targets: whose probabilities are learned (Gemma Team 2025, section 2.3): the `teacher`'s, with all that the section
        `distillation` says, or the `student`'s own from before and nothing else.
    """

    scheme: str | None = None
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    activations: str | None = None
    epochs: float = 1.0
    batch_size: int | None = None
    learning_rate: float | None = None
    freeze_fraction: float = 0.1
    targets: str = "teacher"

    def __post_init__(self) -> None:
        check(self.scheme in (None, *SCHEMES), "quantization.scheme", f"one of {', '.join(SCHEMES)} or null", self.scheme)
        for pattern, scheme in self.overrides.items():
            known = (*SCHEMES, FLOAT)
            check(scheme in known, f"quantization.overrides.{pattern}", f"one of {', '.join(known)}", scheme)
        check(not self.overrides or self.scheme is not None, "quantization.scheme", "given where there are overrides", self.scheme)
        check(
            self.activations in (None, *ACTIVATIONS),
            "quantization.activations",
            f"one of {', '.join(ACTIVATIONS)} or null",
            self.activations,
        )
        check(self.epochs >= 0, "quantization.epochs", "at least 0", self.epochs)
        check(self.batch_size is None or self.batch_size >= 1, "quantization.batch_size", "at least 1 or null", self.batch_size)
        check(self.learning_rate is None or self.learning_rate > 0, "quantization.learning_rate", "above 0 or null", self.learning_rate)
        check(0 <= self.freeze_fraction < 1, "quantization.freeze_fraction", "at least 0 and below 1", self.freeze_fraction)
        check(self.targets in ("student", "teacher"), "quantization.targets", "student or teacher", self.targets)

    def peak_learning_rate(self, in_float: float) -> float:
        """The config's learning rate, or the scheme's share of that in float; 0 without a scheme."""
        return SCHEMES.get(self.scheme or "", 0.0) * in_float if self.learning_rate is None else self.learning_rate

    def windows_a_step(self, in_float: int) -> int:
        """The config's batch size, or that in float."""
        return in_float if self.batch_size is None else self.batch_size

    @property
    def products(self) -> str:
        """What enters each product: `activations`, or what suits the scheme."""
        if self.scheme is None:
            return "none"
        return self.activations or ("fp8" if self.scheme == "fp8_e4m3" else "dynamic_int8")

    @property
    def numbers(self) -> dict[str, Any]:
        """What the stored numbers depend on, for JSON: `scheme` and `overrides`."""
        return {"scheme": self.scheme, "overrides": dict(self.overrides)}

    def scheme_of(self, name: str) -> str | None:
        """The scheme of a weight, such as `embedding` or `layers.0.query`; none where it stays float.

        A rule that depends on the patterns alone and not on their order, which a config's canonical JSON does not keep.
        """
        matching = [pattern for pattern in self.overrides if fnmatch.fnmatchcase(name, pattern)]
        scheme = self.overrides[max(matching, key=lambda pattern: (len(pattern), pattern))] if matching else self.scheme
        return None if scheme == FLOAT else scheme
