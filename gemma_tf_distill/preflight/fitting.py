"""Settings with which a training step fits a device, and the largest batch with which it does: what is proposed was compiled."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from gemma_tf_distill.config import Config
from gemma_tf_distill.preflight.verdict import Verdict

_TRIES = 6
# A batch that is larger by less than this share is not worth another compilation.
_WORTH = 1 / 8
# Figures of a small batch say little about one that is larger than so many times.
_GROWTH = 8


def fitting(config: Config, devices: int, verdict: Verdict, judged: Callable[[Config], Verdict]) -> tuple[Config, Verdict] | None:
    """The nearest config that fits: checkpointing first, then smaller parts of the same batch, then what changes numbers.

    Args:
      config: one that does not fit.
      devices: that share a batch.
      verdict: of `config`.
      judged: compiles a config's step.

    Returns:
      The config and its verdict; none where none was found.
    """
    candidate = config
    for _ in range(_TRIES):
        lighter = _lighter(candidate, devices, verdict)
        if lighter is None:
            return None
        candidate = lighter
        verdict = judged(candidate)
        if verdict.fits:
            return candidate, verdict
    return None


def largest_batch(config: Config, devices: int, verdict: Verdict, judged: Callable[[Config], Verdict]) -> Config:
    """The config with the largest `training.batch_size` that fits; all else stays as it is, accumulation steps included.

    Temporaries are nearly proportional to windows, so that two sizes that were compiled tell about where the limit is. The answer was
    compiled and fits; one that is larger by an eighth was compiled and does not, or six compilations were not enough to find it.

    Args:
      config: one that fits.
      devices: that share a batch.
      verdict: of `config`.
      judged: compiles a config's step.
    """
    unit = devices * config.training.accumulation_steps
    limit = verdict.hbm_limit_bytes
    fits, too_many = config.training.batch_size // unit, math.inf
    # Bytes by windows of a part; none take what is there before the first temporary.
    known = {0: verdict.hbm_bytes["total"] - verdict.hbm_bytes["temporaries"], fits: verdict.hbm_bytes["total"]}
    for _ in range(_TRIES):
        worth = fits + max(1, math.ceil(fits * _WORTH))
        if worth >= too_many:
            break
        low, high = sorted(known)[-2:] if too_many == math.inf else (fits, int(too_many))
        slope = (known[high] - known[low]) / (high - low)
        guess = low + int((limit - known[low]) / slope) if slope > 0 else _GROWTH * fits
        size = int(max(worth, min(guess, _GROWTH * fits, too_many - 1)))
        found = judged(_with(config, batch_size=size * unit))
        known[size] = found.hbm_bytes["total"]
        if found.fits:
            fits = size
        else:
            too_many = size
    return _with(config, batch_size=fits * unit)


def _lighter(config: Config, devices: int, verdict: Verdict) -> Config | None:
    training = config.training
    share = training.batch_size // devices
    room = verdict.hbm_limit_bytes - (verdict.hbm_bytes["total"] - verdict.hbm_bytes["temporaries"])
    if training.gradient_checkpointing == "none":
        return _with(config, gradient_checkpointing="blocks")
    if training.precision == "float32":
        return _with(config, precision="mixed_bfloat16")
    if training.optimizer_dtype == "float32" and room < verdict.hbm_bytes["weights"]:
        # Not even the gradients, in float32 as the weights are, would have room.
        return _with(config, optimizer_dtype="bfloat16")
    if training.accumulation_steps < share:
        wanted = training.accumulation_steps * max(2, math.ceil(verdict.hbm_bytes["temporaries"] / max(1, room)))
        steps = next((n for n in range(training.accumulation_steps + 1, share + 1) if share % n == 0 and n >= wanted), share)
        return _with(config, accumulation_steps=steps)
    return _with(config, optimizer_dtype="bfloat16") if training.optimizer_dtype == "float32" else None


def _with(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **changes))
