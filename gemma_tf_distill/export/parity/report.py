"""What parity found, for programs and for people. Needs no TensorFlow."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from gemma_tf_distill.errors import UserError


class ParityError(UserError):
    """An exported file is not what the student is: it computes something else, or holds other numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileParity:
    """An exported file beside the student. What a runtime does not tell is none.

    Attributes:
      format: `saved_model`, `tflite`, `litertlm` or `hugging_face`.
      path: the file or folder.
      bytes: its size, all files of a folder together.
      weights_equal_fraction: share of its weight codes and scales that are the student's, to the bit.
      tokens: predictions that were compared.
      top1_agreement: share of them with the same most probable word as the student's.
      max_abs_dlogprob: greatest |difference| to the student's log-probability of the token that follows in the text, in nats.
      mean_abs_dlogprob: the mean of those.
      nll: nats a token on those tokens.
      student_nll: the student's on the same tokens, with inputs of products in int8 where the runtime makes them so.
      int8_top1_agreement: where the runtime makes inputs int8, the student's own agreement with itself in float; rounding errors of that
        size are what two runs in int8, the runtime's and the student's, do not have in common.
      greedy_agreement: share of the tokens of its greedy completions that are the student's own first choice after the same beginning.
      completions: those completions, a text for every prompt that was completed.
      prefill_tokens_per_second: of a prompt that is read at once.
      decode_tokens_per_second: one after another.
      peak_bytes: of memory, of the process that ran it (Python and the runtime itself included).
      failures: in what it is not what the student is, a sentence each; none: it passed.
    """

    format: str
    path: str
    bytes: int
    weights_equal_fraction: float
    tokens: int = 0
    top1_agreement: float | None = None
    max_abs_dlogprob: float | None = None
    mean_abs_dlogprob: float | None = None
    nll: float | None = None
    student_nll: float | None = None
    int8_top1_agreement: float | None = None
    greedy_agreement: float | None = None
    completions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    peak_bytes: int | None = None
    failures: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """All files of an export beside the student.

    Attributes:
      files: one after another.
    """

    files: tuple[FileParity, ...]

    @property
    def weights_equal_fraction(self) -> float:
        """The least of the files' fractions."""
        return min(file.weights_equal_fraction for file in self.files)

    @property
    def passed(self) -> bool:
        """Whether every file is what the student is."""
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """Of all files."""
        return [failure for file in self.files for failure in file.failures]

    def to_dict(self) -> dict[str, Any]:
        """`weights_equal_fraction`, `files` (their attributes) and `passed`, as JSON takes them: a figure that is no number is null."""
        files = [
            {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in dataclasses.asdict(file).items()
            }
            for file in self.files
        ]
        return {"weights_equal_fraction": self.weights_equal_fraction, "files": files, "passed": self.passed}

    def render(self) -> str:
        """A table for a person, and what failed."""
        header = (
            "",
            "MB",
            "weights",
            "top-1",
            "int8",
            "mean |Δ|",
            "max |Δ|",
            "NLL",
            "student",
            "greedy",
            "prefill/s",
            "decode/s",
            "peak MB",
        )
        rows = [header, *(_row(file) for file in self.files)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        note = (
            "int8: the student's agreement with itself, inputs of products in int8 beside float"
            if any(file.int8_top1_agreement for file in self.files)
            else ""
        )
        verdict = "parity holds: every file is what the student is" if self.passed else "parity fails:"
        return "\n".join([*(line.rstrip() for line in lines), note, "", verdict, *(f"  {failure}" for failure in self.failures)])


def _row(file: FileParity) -> tuple[str, ...]:
    def shown(value: float | None, form: str, factor: float = 1) -> str:
        return "-" if value is None else format(value * factor, form)

    return (
        file.format,
        shown(file.bytes, ".1f", 1e-6),
        shown(file.weights_equal_fraction, ".4%"),
        shown(file.top1_agreement, ".2%"),
        shown(file.int8_top1_agreement, ".2%"),
        shown(file.mean_abs_dlogprob, ".5f"),
        shown(file.max_abs_dlogprob, ".4f"),
        shown(file.nll, ".4f"),
        shown(file.student_nll, ".4f"),
        shown(file.greedy_agreement, ".1%"),
        shown(file.prefill_tokens_per_second, ".0f"),
        shown(file.decode_tokens_per_second, ".1f"),
        shown(file.peak_bytes, ".0f", 1e-6),
    )
