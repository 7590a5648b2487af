"""When a run must not go on: its loss, or what it learns from, is no number."""

import math
from collections.abc import Mapping

from gemma_tf_distill.errors import UserError


class DivergenceError(UserError):
    """The loss is no longer a number."""


class DivergenceGuard:
    """Looks at the scalars of a run whenever they are fetched."""

    def __init__(self, name: str, total_steps: int, words: int, *, section: str, learning_rate: float):
        """Args:
        name: of the run.
        total_steps: of the run.
        words: that the student has.
        section: of the config that holds the learning rate.
        learning_rate: its peak.
        """
        self._name = name
        self._total_steps = total_steps
        self._words = words
        self._section = section
        self._learning_rate = learning_rate

    def diverged(self, step: int, values: Mapping[str, float], wrong_targets: float) -> DivergenceError | None:
        """Why the run must not go on; none where loss and gradient are finite and all targets were some.

        Args:
          step: steps taken.
          values: the last step's scalars, `loss` (nats a token) and `gradient_norm` among them.
          wrong_targets: batches, up to now, with targets that are no numbers or of unknown words.
        """
        if wrong_targets:
            return DivergenceError(
                f"{self._name} met teacher's targets by step {step} of {self._total_steps} that are not all numbers, or of words beyond "
                f"its {self._words}: score the corpus again"
            )
        if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
            return DivergenceError(
                f"the loss of the {self._name} is {values['loss']} at step {step} of {self._total_steps}: lower "
                f"{self._section}.learning_rate (now {self._learning_rate:g}) or raise training.warmup_fraction"
            )
        return None
