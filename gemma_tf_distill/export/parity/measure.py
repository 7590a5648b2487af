"""Runs every exported file in its own runtime and compares its numbers and its predictions with the student's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.errors import ConfigError, UserError
from gemma_tf_distill.export.files import total_bytes
from gemma_tf_distill.export.parity.compare import Predictions, compare_completions
from gemma_tf_distill.export.parity.messages import Request
from gemma_tf_distill.export.parity.process import runtime_process
from gemma_tf_distill.export.parity.reference import Reference
from gemma_tf_distill.export.parity.report import FileParity, ParityReport
from gemma_tf_distill.export.parity.weights import StudentNumbers
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.monitoring.progress import doing, progress

_FALLBACK_PROMPT = "The"


def measure_parity(
    files: Mapping[str, str],
    student: Gemma,
    windows: np.ndarray | Sequence[Sequence[int]],
    *,
    quantization: QuantizationConfig | None = None,
    prompts: Sequence[str] = (),
    max_new_tokens: int = 16,
) -> ParityReport:
    """Compares exported files with the student they were made of.

    A file passes if all of its weights are the student's, to the bit; if in every window, and all along its greedy completions, the word
    it chooses is no further than a tie behind the student's own first choice; and if its completions end where the student's would. A
    tie is 0.01 nats. Where the runtime multiplies integers, it is compared with the student whose products get their inputs in int8, as
    LiteRT's kernels do it; choices and log-probabilities may differ, in the mean, by twice what int8 makes of the student in float, see
    `compare`.

    Of each window the first half is read at once, and the predictions in the rest are compared; so are some that are made one by one after
    longer texts, one for each length that a `.tflite` reads at once.

    Args:
      files: paths by format (`saved_model`, `tflite`, `litertlm`, `hugging_face`); local.
      student: what was exported; to be compared with integers it lies on its lattices.
      windows: held-out token ids of one length, each beginning with `<bos>`; of those with padding only the
        longest counts, and that where there are no others.
      quantization: with a scheme, as given to the export.
      prompts: texts to complete, by default one; those that leave no room in a file's context are left out, and where none is left, the
        empty one is completed as far as it can be.
      max_new_tokens: tokens to add to each.

    Raises:
      ConfigError: if there are no windows of 4 tokens.
    """
    whole = _whole(windows, student.tokenizer.pad_id)
    found = []
    numbers = StudentNumbers(student, quantization)
    with Reference(student, quantization, whole) as reference:
        for number, (format, path) in enumerate(files.items(), start=1):
            request = Request(path, whole, reference.begin, list(prompts) or [_FALLBACK_PROMPT], max_new_tokens)
            task = f"parity of {format}, file {number} of {len(files)}"
            found.append(_measure_file(format, request, numbers, reference, task))
    return ParityReport(tuple(found))


def _whole(windows: np.ndarray | Sequence[Sequence[int]], pad_id: int) -> tuple[tuple[int, ...], ...]:
    """The windows without padding, or, where all have some, what is before it in the longest one."""
    texts = [tuple(int(token) for token in window if token != pad_id) for window in windows]
    longest = max(map(len, texts), default=0)
    if longest < 4:
        raise ConfigError(f"parity needs windows of at least 4 tokens, and the longest of {len(texts)} has {longest}: give more text")
    return tuple(text for text in texts if len(text) == longest)


def _measure_file(format: str, request: Request, numbers: StudentNumbers, reference: Reference, task: str) -> FileParity:
    path, integer = request.path, reference.is_integer(format)
    equal_fraction, failures, figures = 0.0, list[str](), dict[str, Any]()
    try:
        doing(f"{task}: reading its weights")
        equal_fraction, first = numbers.difference(format, path)
        if first:
            failures.append(f"{path} does not hold the student's own numbers: {first}")
        doing(f"{task}: starting its runtime")
        with runtime_process(request) as process:
            if format != "litertlm":
                predictions = Predictions(reference, integer)
                for index in range(len(request.windows)):
                    predictions.add(index, process.receive())
                    progress(task, index + 1, len(request.windows), unit="windows")
                doing(f"{task}: reading longer texts")
                for long in process.receive():
                    predictions.add_long(long)
                figures |= predictions.figures()
                failures += predictions.failures(path)
            doing(f"{task}: completing prompts")
            completed = process.receive()
            agreement, wrong = compare_completions(path, completed, reference, integer)
            failures += wrong
            figures |= {"greedy_agreement": agreement, "completions": dict(zip(completed.prompts, completed.texts, strict=True))}
            doing(f"{task}: measuring its speed")
            figures |= process.receive()._asdict()
    # One file that can't be read or run leaves the others to be measured.
    except UserError as error:
        failures.append(str(error))
    return FileParity(
        format=format,
        path=path,
        bytes=total_bytes(path),
        weights_equal_fraction=equal_fraction,
        failures=tuple(failures),
        **figures,
    )
