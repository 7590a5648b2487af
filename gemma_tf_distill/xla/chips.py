"""The TPUs that the compiler knows, and what each of their devices can do at most."""

from typing import NamedTuple

from gemma_tf_distill.errors import ConfigError

_GIB = 2**30


class Chip(NamedTuple):
    """One device as TensorFlow and jax count them: a chip, of the v4 one of its two cores.

    Attributes:
      hbm_bytes: of memory that a program can have, as libtpu's compiler says when one exceeds it.
      flops_per_second: of bfloat16 products, at its peak.
      bytes_per_second: to and from its memory.
      link_bytes_per_second: to its neighbours, all links together, in one direction.
      example: a topology that there is.
    """

    hbm_bytes: int
    flops_per_second: float
    bytes_per_second: float
    link_bytes_per_second: float
    example: str


# Peak, bandwidth and interchip interconnect from Google Cloud's "TPU architecture" pages of each version (2024).
CHIPS = {
    "v4": Chip(int(15.25 * _GIB), 137.5e12, 614e9, 150e9, "v4:2x2x1"),
    "v5e": Chip(int(15.75 * _GIB), 197e12, 819e9, 200e9, "v5e:2x4"),
    "v5p": Chip(int(95.74 * _GIB), 459e12, 2765e9, 600e9, "v5p:2x2x1"),
    "v6e": Chip(int(31.25 * _GIB), 918e12, 1640e9, 448e9, "v6e:2x4"),
}


def chip_of(topology: str) -> Chip:
    """The devices of a topology such as `v5e:2x4`.

    Raises:
      ConfigError: for a generation that is not known; it lists those that are.
    """
    generation, colon, grid = topology.partition(":")
    sizes = grid.split("x")
    if generation not in CHIPS or not colon or not all(size.isdigit() and int(size) > 0 for size in sizes):
        known = ", ".join(chip.example for chip in CHIPS.values())
        raise ConfigError(f"{topology!r} is no TPU topology that is known here: give a generation and its grid of chips, such as {known}")
    return CHIPS[generation]
