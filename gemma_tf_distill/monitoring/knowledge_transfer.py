"""How much of what a teacher knows has reached the student."""

import math


def gap_closed(student: float | None, control: float | None, teacher: float | None) -> float | None:
    """Knowledge-transfer efficiency: the share of the way from the control's NLL to the teacher's that the student went.

    0 is a student no better than the control, which is the same model trained on the same tokens without the teacher; 1 one as good as the
    teacher. Below 0 the teacher did harm, above 1 the student passed it.

    Args:
      student: NLL on the held-out split, nats a token.
      control: the control's; none where none was trained.
      teacher: the teacher's, over the same words.

    Returns:
      The share; none where a figure is missing or no number, and where the control is as good as the teacher: there is no way to go then.
    """
    if student is None or control is None or teacher is None or not all(map(math.isfinite, (student, control, teacher))):
        return None
    return (control - student) / (control - teacher) if control > teacher else None
