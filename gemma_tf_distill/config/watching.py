"""Parts of the section `training`: when training ends before its last step, and what is done when its loss jumps."""

import dataclasses

from gemma_tf_distill.config.checking import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStoppingConfig:
    """The student that was best on the held-out split is kept, and training ends when it has not got better for a while.

    Attributes:
      metric: of the held-out split, nats a token: `kl` (to the teacher) or `nll`; the control is always judged by `nll`.
      every: steps between looks.
      patience: looks without a better student after which training ends.
      min_change: a student is better only if its metric is lower by more than that, nats a token.
    """

    metric: str = "kl"
    every: int = 100
    patience: int = 3
    min_change: float = 0.0

    def __post_init__(self) -> None:
        check(self.metric in ("kl", "nll"), "training.early_stopping.metric", "kl or nll", self.metric)
        check(self.every >= 1, "training.early_stopping.every", "at least 1", self.every)
        check(self.patience >= 1, "training.early_stopping.patience", "at least 1", self.patience)
        check(self.min_change >= 0, "training.early_stopping.min_change", "at least 0", self.min_change)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DivergenceConfig:
    """What is done about a loss that is no number, or jumps.

    Attributes:
      spike: a loss above so many times the mean of the last log lines' is a jump; none: only a loss that is no number counts.
      action: `stop`, or `roll_back` to the last checkpoint and go on from there with a lower learning rate.
      rate_factor: by which the learning rate is multiplied at each roll-back.
      retries: roll-backs after which the next divergence stops the run.
    """

    spike: float | None = None
    action: str = "stop"
    rate_factor: float = 0.5
    retries: int = 3

    def __post_init__(self) -> None:
        check(self.spike is None or self.spike > 1, "training.divergence.spike", "above 1 or null", self.spike)
        check(self.action in ("stop", "roll_back"), "training.divergence.action", "stop or roll_back", self.action)
        check(0 < self.rate_factor < 1, "training.divergence.rate_factor", "above 0 and below 1", self.rate_factor)
        check(self.retries >= 1, "training.divergence.retries", "at least 1", self.retries)
