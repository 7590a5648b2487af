"""The scalars of training, added up on the device and read only when somebody looks."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from gemma_tf_distill.monitoring.convergence import Convergence

# A step's scalars that belong to training and data; all others are what is distilled.
_TRAIN = ("gradient_norm",)
_COUNTS = ("tokens", "window_tokens", "wrong_targets")


class Work(NamedTuple):
    """What a step has to compute, and what could be computed in that time.

    Attributes:
      flops: a step's, of the model (not those that a checkpointed block repeats).
      flops_per_second: of all devices that share it, at their peak.
    """

    flops: float
    flops_per_second: float


class DistillationMetrics:
    """Means over the steps since the last look, the last step's values, rates, and whether the loss still falls.

    Between two looks nothing is read back from the device. A value that is no number makes its mean one, and both are shown.
    """

    def __init__(self, *, work: Callable[[int], Work] | None = None, points: int = 20, clock: Callable[[], float] = time.monotonic):
        """Args:
        work: from a batch's tokens (padding and `<bos>` included) to a step's work; none: model FLOPs utilisation is left out.
        points: looks that the slope of the loss is measured over.
        clock: seconds, rising.
        """
        self._work = work
        self._clock = clock
        self._convergence = Convergence(points)
        # By the names of the scalars: a step on the student's own words may have others.
        self._sums: dict[tuple[str, ...], tf.Tensor] = {}
        self._steps: dict[tuple[str, ...], int] = {}
        self._last: tuple[tuple[str, ...], list[tf.Tensor]] = ((), [])
        self._add = tf.function(lambda total, values: total + tf.stack(values), autograph=False, reduce_retracing=True)
        # None until the first look: compilation is no step's time.
        self._begun: float | None = None

    def forget(self) -> None:
        """Begins anew, where training goes back."""
        self._forget_sums()
        self._convergence.clear()
        self._begun = None

    def update_metrics(self, last: Mapping[str, tf.Tensor], summed: Mapping[str, tf.Tensor] | None = None, steps: int = 1) -> None:
        """Takes what one or several steps gave.

        Args:
          last: float32 scalars of the last step, `loss` (nats a token), its terms, norms, `window_tokens` and so on.
          summed: the same ones, added up over the steps; none: of one step.
          steps: how many.
        """
        names = tuple(sorted(last))
        total = self._sums.get(names)
        summed = last if summed is None else summed
        zeros = tf.zeros([len(names)]) if total is None else total
        self._sums[names] = self._add(zeros, [summed[name] for name in names])
        self._steps[names] = self._steps.get(names, 0) + steps
        self._last = names, [last[name] for name in names]

    def last(self) -> dict[str, float]:
        """The last step's scalars by the step's own names, in one transfer."""
        names, values = self._last
        return dict(zip(names, tf.stack(values).numpy().tolist(), strict=True))

    def read(self, step: int, learning_rate: float) -> dict[str, float]:
        """What TensorBoard shows, by name, and begins new means.

        Args:
          step: steps taken since the run began.
          learning_rate: of the next step.

        Returns:
          `distill/…`: loss, terms and schedules of the last step; `…_mean` over the steps since the last look; `loss_slope` of these,
          in nats a token and 1,000 steps, and `loss_slope_error`. `train/…`: norms, learning rate, seconds a step. `data/…`: tokens
          seen and tokens a second (padding included), share of them that counts. `hardware/mfu`. Times are told from the second look on.
        """
        last = self.last()
        means, steps = self._means()
        seconds = (self._clock() - self._begun) / steps if self._begun is not None else None
        told: dict[str, float] = {}
        for name, value in last.items():
            if name not in _COUNTS:
                told[f"{'train' if name.split('/')[0] in _TRAIN else 'distill'}/{name}"] = value
        told |= {f"distill/{name}_mean": mean for name, mean in means.items() if name.endswith("loss")}
        self._convergence.add(step, means["loss"])
        if (slope := self._convergence.slope()) is not None:
            told |= {"distill/loss_slope": 1000 * slope.slope, "distill/loss_slope_error": 1000 * slope.error}
        told["train/learning_rate"] = learning_rate
        told["data/tokens_seen"] = step * last["window_tokens"]
        told["data/counted_fraction"] = means["tokens"] / means["window_tokens"]
        if seconds:
            told["train/step_seconds"] = seconds
            told["data/tokens_per_second"] = means["window_tokens"] / seconds
            if self._work is not None:
                work = self._work(round(means["window_tokens"]))
                told["hardware/mfu"] = work.flops / seconds / work.flops_per_second
        self._forget_sums()
        self._begun = self._clock()
        return told

    def _means(self) -> tuple[dict[str, float], int]:
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, total in self._sums.items():
            for name, value in zip(names, total.numpy().tolist(), strict=True):
                totals[name] = totals.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + self._steps[names]
        return {name: total / counts[name] for name, total in totals.items()}, sum(self._steps.values())

    def _forget_sums(self) -> None:
        self._sums, self._steps = {}, {}
