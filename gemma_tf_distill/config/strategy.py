"""The section `strategy`: which devices train, and how many steps they take before anyone looks."""

import dataclasses

from gemma_tf_distill.config.checking import check, nearest_multiples
from gemma_tf_distill.config.distillation import DistillationConfig
from gemma_tf_distill.config.quantization import QuantizationConfig
from gemma_tf_distill.config.training import TrainingConfig
from gemma_tf_distill.errors import ConfigError

STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """The devices that share a batch. The result is that of one device which accumulates as many parts as all of them together.

    Attributes:
      name: `one_device`; `mirrored` (the GPUs of this machine, or where there are none its CPU in `devices` pieces); `multi_worker` (the
        machines that `TF_CONFIG` names, all of which run `gemma-distill workers`); `tpu`.
      devices: of `mirrored`, how many; none: all.
      tpu: `local` (the chips of this machine), or a Cloud TPU's name or `grpc://` address.
      steps_per_execution: optimizer steps that one call takes in a compiled loop, without Python in between.
    """

    name: str = "one_device"
    devices: int | None = None
    tpu: str = "local"
    steps_per_execution: int = 1

    def __post_init__(self) -> None:
        check(self.name in STRATEGIES, "strategy.name", f"{', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}", self.name)
        check(self.devices is None or self.devices >= 1, "strategy.devices", "at least 1 or null", self.devices)
        check(self.devices is None or self.name == "mirrored", "strategy.devices", f"null where strategy.name is {self.name}", self.devices)
        check(bool(self.tpu.strip()), "strategy.tpu", "local, or a TPU's name or address", self.tpu)
        check(self.tpu == "local" or self.name == "tpu", "strategy.tpu", f"local where strategy.name is {self.name}", self.tpu)
        check(self.steps_per_execution >= 1, "strategy.steps_per_execution", "at least 1", self.steps_per_execution)


def check_strategy(
    strategy: StrategyConfig, training: TrainingConfig, distillation: DistillationConfig, quantization: QuantizationConfig
) -> None:
    """Raises ConfigError where the devices can't do what the other sections ask for."""
    steps = strategy.steps_per_execution
    for name in ("log_every", "checkpoint_every"):
        value = getattr(training, name)
        check(value % steps == 0, f"training.{name}", f"a multiple of strategy.steps_per_execution ({steps})", value)
    if training.early_stopping is not None:
        every = training.early_stopping.every
        check(every % steps == 0, "training.early_stopping.every", f"a multiple of strategy.steps_per_execution ({steps})", every)
    if strategy.devices is not None:
        check_share(training, strategy.devices)
    if distillation.on_policy.fraction:
        check(strategy.name == "one_device", "strategy.name", "one_device where the student writes (on_policy.fraction)", strategy.name)
        check(steps == 1, "strategy.steps_per_execution", "1 where the student writes between steps (on_policy.fraction)", steps)
    if training.teacher_device is not None:
        check(strategy.name == "one_device", "strategy.name", "one_device beside a training.teacher_device", strategy.name)
        check(steps == 1, "strategy.steps_per_execution", "1 beside a training.teacher_device, which works between steps", steps)
    if quantization.scheme is not None:
        check(
            strategy.name == "one_device",
            "strategy.name",
            "one_device where the student is trained for integers (quantization.scheme), whose scales are measured on one device",
            strategy.name,
        )


def check_share(training: TrainingConfig, devices: int) -> None:
    """Raises ConfigError, with the nearest sizes that would do, where so many devices can't have equal parts of a batch."""
    unit = devices * training.accumulation_steps
    windows = training.batch_size
    if windows % unit:
        raise ConfigError(
            f"training.batch_size is {windows}, which {devices} devices with {training.accumulation_steps} accumulation steps each "
            f"can't share: choose {nearest_multiples(windows, unit)}"
        )
