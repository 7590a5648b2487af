"""Runs exported files in their own runtimes and compares their predictions with the student's. No file is trusted before that."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from gemma_tf_distill.config import QuantizationConfig
from gemma_tf_distill.errors import UserError
from gemma_tf_distill.export.litert_lm_runtime import LiteRtLmModel
from gemma_tf_distill.export.litert_quantization import StoredWeight, stored_weights
from gemma_tf_distill.export.litert_runtime import LiteRtModel
from gemma_tf_distill.export.names import GENERATE
from gemma_tf_distill.export.text import stop_ids
from gemma_tf_distill.gemma.functional import weights_of
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.quantization.apply import ModelQuantization, quantized_weights
from gemma_tf_distill.quantization.layout import matmul_shapes
from gemma_tf_distill.transfer.head import head_logits

# float32 in another order of summation moves a log-probability by about 1e-3 nats over 18 layers; words nearer than this are a tie.
_TIE = 0.01
# With inputs in int8 the same difference moves a number that lies between two steps to the other one, which is a 255th of its token's
# range, and what follows with it: over 18 random layers such flips moved log-probabilities by 0.02 nats in the mean and 0.15 at the most,
# and 1e-6 is all up to the first of them. So far behind is still the same model, and so many choices may be ties that the noise broke.
_INTEGER_TIE = 0.5
_LEAST_AGREEMENT = 0.9
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
    """Checks that every token of a SavedModel's completions is the student's own first choice, and so is their end.

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
        if len(ids) < max_new_tokens:
            _check(path, student, logits[-1], _likeliest_stop(student, logits[-1]), window)
        completions.append(Completion(window, text.decode(errors="replace")))
    return completions


def verify_litert(path: str, student: Gemma, windows: Sequence[Sequence[int]], quantization: QuantizationConfig | None = None) -> None:
    """Checks the next-token predictions of a `.tflite` at the end of windows, and after each of its prefill lengths.

    A float32 file must choose what the student would, up to ties. A quantised one is compared with the student as the runtime's
    kernels compute it, with what enters its products in int8 (`dynamic_int8`, whatever it was trained with). Each choice may be half
    a nat behind the student's, and 9 in 10 (all but one, where there are few) must be the student's own, up to the same ties.

    Args:
      path: a local file of `export_litert`.
      student: what was exported.
      windows: token ids, each beginning with `<bos>`; no longer than the file's context.
      quantization: with a scheme, as given to `export_litert`.

    Raises:
      ParityError: naming the file and the token.
    """
    model = LiteRtModel(path)
    simulated = None if quantization is None else ModelQuantization(student, dataclasses.replace(quantization, activations="dynamic_int8"))
    joined = [token for window in windows for token in window]
    long = joined * -(-model.context_length // len(joined))
    lengths = [length + _DECODED for length in model.prefill_lengths]
    choices, agreeing = 0, 0
    for window in [*windows, *(long[: min(length, model.context_length)] for length in lengths)]:
        logits = _student_logits(student, window, simulated)
        begin = max(len(window) - _DECODED, 0)
        model.prefill(window[:begin])
        for position in range(begin, len(window)):
            choice = int(model.decode(window[position], position).argmax())
            tie = _TIE if simulated is None else _INTEGER_TIE
            behind = _check(path, student, logits[position], choice, window[: position + 1], tie)
            choices, agreeing = choices + 1, agreeing + (behind <= _TIE)
    if choices - agreeing > max(1, (1 - _LEAST_AGREEMENT) * choices):
        raise ParityError(
            f"{path} does not compute what the student computes with inputs in int8: of {choices} choices only {agreeing} are the same"
        )


def verify_litert_weights(path: str, student: Gemma, quantization: QuantizationConfig) -> None:
    """Checks that a `.tflite` holds the student's integers and scales, and its other matrices in float32, every single one.

    Args:
      path: a local file of `export_litert`.
      student: what was exported.
      quantization: with a scheme, as given to `export_litert`.

    Raises:
      ParityError: naming the first weight that differs, in how many codes and scales, and how many weights do.
    """
    expected: Mapping[str, StoredWeight] = {
        **{name: StoredWeight(value, np.zeros((0, 0), np.float32)) for name, value in weights_of(student).items()},
        **{name: StoredWeight(weight.codes, weight.scales) for name, weight in quantized_weights(student, quantization).items()},
    }
    with open(path, "rb") as file:
        content = file.read()
    names = set(matmul_shapes(student.config))
    missing = set(names)
    wrong: dict[str, str] = {}
    for name, stored in stored_weights(content):
        missing.discard(name)
        difference = _difference(stored, expected[name]) if name in names else "which the student does not have"
        if difference:
            wrong.setdefault(name, difference)
    wrong |= dict.fromkeys(sorted(missing), "which is not in the file")
    if wrong:
        name, difference = next(iter(wrong.items()))
        raise ParityError(
            f"{path} does not hold the student's own numbers: {len(wrong)} of {len(names)} matrices differ, first {name}, {difference}"
        )


def verify_litert_lm(
    path: str, tflite: str, student: Gemma, prompts: Sequence[str], max_new_tokens: int, quantization: QuantizationConfig | None = None
) -> None:
    """Checks that LiteRT-LM completes prompts with a `.litertlm` as LiteRT does with the `.tflite` that is in it, and as far.

    The two runtimes read a prompt in portions of their own: where the texts part, what the `.litertlm` goes on with must be a tie with
    the `.tflite`'s first choice. What follows has no longer the same beginning and is not compared.

    Args:
      path: a local file of `export_litert_lm`.
      tflite: what it was made of, with `tokenizer.model` beside it.
      student: what was exported.
      prompts: texts to complete; those that leave no room in the context are left out; where none is left, one fixed text.
      max_new_tokens: tokens to add at the most.
      quantization: with a scheme, as given to `export_litert`: how near a tie is depends on it.

    Raises:
      ParityError: naming the file and the token.
    """
    model, reference, tokenizer = LiteRtLmModel(path), LiteRtModel(tflite), student.tokenizer
    tie, stops = _TIE if quantization is None else _INTEGER_TIE, stop_ids(tokenizer)

    def text_of(ids: Sequence[int]) -> str:
        # The last token may hold only the first bytes of a character.
        return tokenizer.decode(ids).rstrip("\ufffd")

    def goes_on_with(word: int) -> bool:
        return text == text_of(new) if word in stops else text.startswith(text_of([*new, word]))

    fitting = [prompt for prompt in prompts if model.count_tokens(prompt) + max_new_tokens <= model.context_length]
    for prompt in fitting or [_FALLBACK_PROMPT]:
        text = "".join(model.complete(prompt, max_new_tokens)).rstrip("\ufffd")
        begin, new = [tokenizer.bos_id, *tokenizer.encode(prompt)], list[int]()
        reference.prefill(begin[:-1])
        while len(new) < max_new_tokens:
            window = [*begin, *new]
            logits = reference.decode(window[-1], len(window) - 1)
            best = int(logits.argmax())
            if not goes_on_with(best):
                if any(map(goes_on_with, np.flatnonzero(logits >= logits[best] - tie).tolist())):
                    break
                raise ParityError(
                    f"{path} does not compute what the .tflite in it computes: after {text_of(window)[-60:]!r} ({len(window)} tokens) it "
                    f"goes on with {text[len(text_of(new)) :][:40]!r}, and the .tflite with {tokenizer.piece(best)!r}"
                )
            if best in stops:
                break
            new.append(best)
        else:
            if text != text_of(new):
                raise ParityError(f"{path} wrote more than the {max_new_tokens} tokens that it was asked for: {text[-40:]!r} is too much")


def _likeliest_stop(student: Gemma, logits: np.ndarray) -> int:
    return max(stop_ids(student.tokenizer), key=lambda word: logits[word])


def _difference(stored: StoredWeight, expected: StoredWeight) -> str:
    """In what a matrix differs, as the end of a sentence; empty: in nothing."""
    for field, found, wanted in zip(StoredWeight._fields, stored, expected, strict=True):
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            return f"whose {field} are {found.dtype} {list(found.shape)} and not {wanted.dtype} {list(wanted.shape)}"
    counts = [int(np.count_nonzero(found != wanted)) for found, wanted in zip(stored, expected, strict=True)]
    return f"in {counts[0]} of {stored.codes.size} codes and {counts[1]} of {stored.scales.size} scales" if any(counts) else ""


def _student_logits(student: Gemma, window: Sequence[int], quantization: ModelQuantization | None = None) -> np.ndarray:
    """float32 [T, V]: KerasHub's own forward pass, on which nothing exported depends; quantised as it is simulated in training."""
    tokens, mask = np.array([window], np.int32), np.ones((1, len(window)), np.int32)
    if quantization is None:
        return student.logits(tokens, mask).numpy()[0]
    backbone = student.backbone
    with quantization.forward(training=False) as head_input:
        states = head_input(backbone({"token_ids": tokens, "padding_mask": mask}))
        embedding = tf.convert_to_tensor(backbone.token_embedding.embeddings.value)
    return head_logits(states[0], embedding, backbone.final_logit_soft_cap).numpy()


def _check(
    path: str, student: Gemma, logits: np.ndarray, choice: int, read: Sequence[int], tie: float = _TIE, whose: str = "the student"
) -> float:
    """How far behind the student's (or another's) first choice a choice is, in nats; raises ParityError where that is more than a tie."""
    best = int(logits.argmax())
    behind = float(logits[best] - logits[choice])
    # Not `behind > tie`: a NaN must not pass.
    if not behind <= tie:
        tokenizer = student.tokenizer
        raise ParityError(
            f"{path} does not compute what the student computes: after {tokenizer.decode(read)[-60:]!r} ({len(read)} tokens) it chooses "
            f"{tokenizer.piece(choice)!r}, which the student puts {behind:.3f} nats behind {tokenizer.piece(best)!r}"
        )
    return behind
