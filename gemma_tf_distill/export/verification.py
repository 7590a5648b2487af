"""Runs exported files in their own runtimes and compares their predictions with the student's. No file is trusted before that."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from gemma_tf_distill.errors import UserError
from gemma_tf_distill.export.litert_runtime import LiteRtModel
from gemma_tf_distill.export.saved_model import GENERATE
from gemma_tf_distill.gemma.model import Gemma

# float32 in another order of summation moves a log-probability by about 1e-3 nats over 18 layers; words nearer than this are a tie.
_TIE = 0.01
_DECODED = 8
_FALLBACK_PROMPT = "The"


class ParityError(UserError):
    """An exported file does not compute what the student computes."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """What an exported file made of a prompt.

    Attributes:
      window: ids of `<bos>`, prompt (as far as it was read) and completion.
      text: the completion alone.
    """

    window: list[int]
    text: str


def verify_saved_model(path: str, student: Gemma, prompts: Sequence[str], max_new_tokens: int) -> list[Completion]:
    """Checks that every token of a SavedModel's completions is the student's own first choice.

    Args:
      path: a folder of `export_saved_model`.
      student: what was exported.
      prompts: texts to complete together; none: one fixed text.
      max_new_tokens: tokens to add at the most; prompts that leave no room for them in the context are cut by the model.

    Returns:
      What was compared, for every prompt.

    Raises:
      ParityError: naming the file and the token.
    """
    import tensorflow_text  # noqa: F401  registers the tokenizer's operations

    loaded = tf.saved_model.load(path)
    prompts = list(prompts) or [_FALLBACK_PROMPT]
    room = int(loaded.context_length) - max_new_tokens - 1
    found = loaded.signatures[GENERATE](prompt=tf.constant(prompts), max_new_tokens=tf.constant(max_new_tokens))
    tokenizer, completions = student.tokenizer, []
    for prompt, ids, text in zip(prompts, found["token_ids"].numpy().tolist(), found["text"].numpy().tolist(), strict=True):
        prompt_ids = tokenizer.encode(prompt)
        begin = [tokenizer.bos_id, *prompt_ids[max(len(prompt_ids) - room, 0) :]]
        while ids and ids[-1] == tokenizer.pad_id:
            ids.pop()
        window = [*begin, *ids]
        logits = _student_logits(student, window)
        for position in range(len(begin), len(window)):
            _check(path, student, logits[position - 1], window[position], window[:position])
        completions.append(Completion(window, text.decode(errors="replace")))
    return completions


def verify_litert(path: str, student: Gemma, windows: Sequence[Sequence[int]]) -> None:
    """Checks the next-token predictions of a `.tflite` at the end of windows, and after each of its prefill lengths.

    Args:
      path: a local file of `export_litert`.
      student: what was exported.
      windows: token ids, each beginning with `<bos>`; no longer than the file's context.

    Raises:
      ParityError: naming the file and the token.
    """
    model = LiteRtModel(path)
    joined = [token for window in windows for token in window]
    long = joined * -(-model.context_length // len(joined))
    lengths = [length + _DECODED for length in model.prefill_lengths]
    for window in [*windows, *(long[: min(length, model.context_length)] for length in lengths)]:
        logits = _student_logits(student, window)
        begin = max(len(window) - _DECODED, 0)
        model.prefill(window[:begin])
        for position in range(begin, len(window)):
            choice = int(model.decode(window[position], position).argmax())
            _check(path, student, logits[position], choice, window[: position + 1])


def _student_logits(student: Gemma, window: Sequence[int]) -> np.ndarray:
    """float32 [T, V]: KerasHub's own forward pass, on which nothing exported depends."""
    return student.logits([window], [[1] * len(window)]).numpy()[0]


def _check(path: str, student: Gemma, logits: np.ndarray, choice: int, read: Sequence[int]) -> None:
    best = int(logits.argmax())
    behind = float(logits[best] - logits[choice])
    # Not `behind > _TIE`: a NaN must not pass.
    if not behind <= _TIE:
        tokenizer = student.tokenizer
        raise ParityError(
            f"{path} does not compute what the student computes: after {tokenizer.decode(read)[-60:]!r} ({len(read)} tokens) it chooses "
            f"{tokenizer.piece(choice)!r}, which the student puts {behind:.3f} nats behind {tokenizer.piece(best)!r}"
        )
