"""What one training run is called, and where it keeps what it writes."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run.

    Attributes:
      name: `student` or `control`, as progress lines show it.
      learn_from_teacher: off for the control.
      checkpoints: the folder that holds this run's checkpoints until it is done.
      tensorboard: the folder of its event files.
      control_nll: what the control reached on the held-out split, nats a token, which the student's knowledge is measured against; none
        where there was none before.
    """

    name: str
    learn_from_teacher: bool
    checkpoints: str
    tensorboard: str
    control_nll: float | None = None
