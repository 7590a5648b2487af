"""When a run must not go on: its loss is no number or jumps, or what it learns from is no target."""

import collections
import math
import statistics
from collections.abc import Mapping

from gemma_tf_distill.errors import UserError

# Log lines whose mean a jump is measured against, and how many there must be.
_LINES, _LEAST_LINES = 10, 3


class DivergenceError(UserError):
    """The loss is no longer a number, or far above what it was."""


class DivergenceGuard:
    """Looks at the scalars of a run whenever they are fetched."""

    def __init__(self, name: str, total_steps: int, words: int, *, section: str, learning_rate: float, spike: float | None = None):
        """Args:
        name: of the run.
        total_steps: of the run.
        words: that the student has.
        section: of the config that holds the learning rate.
        learning_rate: its peak.
        spike: a loss above so many times the mean of the last ten looks' is a divergence; none: none is.
        """
        self._name = name
        self._total_steps = total_steps
        self._words = words
        self._advice = f"lower {section}.learning_rate (now {learning_rate:g}) or raise training.warmup_fraction"
        self._spike = spike
        self._losses: collections.deque[float] = collections.deque(maxlen=_LINES)

    def check_targets(self, step: int, wrong: float) -> None:
        """Raises DivergenceError if batches, up to now, had targets that are no numbers or of unknown words.

        Args:
          step: steps taken.
          wrong: how many.
        """
        if wrong:
            raise DivergenceError(
                f"{self._name} met teacher's targets by step {step} of {self._total_steps} that are not all numbers, or of words beyond "
                f"its {self._words}: score the corpus again"
            )

    def diverged(self, step: int, values: Mapping[str, float]) -> DivergenceError | None:
        """Why the run must not go on; none where loss and gradient are finite and the loss has not jumped.

        Args:
          step: steps taken.
          values: the last step's scalars, `loss` (nats a token) and `gradient_norm` among them.
        """
        loss = values["loss"]
        at = f"at step {step} of {self._total_steps}"
        if not (math.isfinite(loss) and math.isfinite(values["gradient_norm"])):
            return DivergenceError(f"the loss of the {self._name} is {loss} {at}: {self._advice}")
        if self._spike is not None and len(self._losses) >= _LEAST_LINES:
            usual = statistics.fmean(self._losses)
            if loss > self._spike * usual:
                return DivergenceError(f"the loss of the {self._name} jumped from {usual:.4g} to {loss:.4g} {at}: {self._advice}")
        self._losses.append(loss)
        return None

    def forget(self) -> None:
        """Begins anew, where training goes back."""
        self._losses.clear()
