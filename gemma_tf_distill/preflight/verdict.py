"""What the TPU compiler says of one program."""

import dataclasses
from typing import Any

from gemma_tf_distill.xla.hlo import Buffer


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the compiler says of one program on one device.

    Attributes:
      fits: whether it has room beside its arguments.
      hbm_bytes: `weights` (the student's and projectors'), `optimizer` (its slots), `teacher`, `batch`, `temporaries` (activations,
        gradients and all else that lives within a step), `program`, and their `total`.
      hbm_limit_bytes: what a program can have.
      flops: of its matrix products, loops counted in full; what checkpointing computes twice counts twice.
      bytes: to and from memory; 0 where it was compiled for no chip.
      step_seconds_bound: no execution is faster: products at the chip's peak, bytes at its bandwidth, or gradients between the
        devices over their links, whichever takes longest.
      mfu_bound: the model's operations (`model_flops`) over what the chip can do in that time.
      bound_by: `compute`, `memory` or `links`.
      largest_buffers: results within the program, largest first.
      full_effort: whether the compiler was asked for what runs on the TPU, or for the quickest program, in less than half the time: that
        one moved a fifth more bytes in the step of the 1B, so that the bound may be that much too high where memory is what bounds.
    """

    fits: bool
    hbm_bytes: dict[str, int]
    hbm_limit_bytes: int
    flops: int
    bytes: int
    step_seconds_bound: float
    mfu_bound: float
    bound_by: str
    largest_buffers: list[Buffer]
    full_effort: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists."""
        return dataclasses.asdict(self) | {"largest_buffers": [buffer._asdict() for buffer in self.largest_buffers]}
