"""What a runtime predicted and wrote, beside what the student would."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gemma_tf_distill.export.parity.messages import Completed, LongWindow
from gemma_tf_distill.export.parity.reference import Reference, behind_best
from gemma_tf_distill.export.text import stop_ids

# float32 in another order of summation moves a log-probability by about 1e-3 nats over 18 layers; words nearer than this are a tie.
TIE = 0.01
# With inputs in int8 the same difference moves a number that lies between two steps to the other one, which is a 255th of its token's
# range, and what follows with it: 1e-6 is all up to the first such flip, and a few products later the rounding errors of two runs have
# nothing in common any more. So a runtime may differ from the student in int8 by what two such runs do, sqrt(2) times what int8 makes of
# the student in float, and not by more than twice that. These are added for models and texts on which int8 hardly makes a difference.
_NOISE_FACTOR = 2.0
# Ways that are tried where several words in a tie go on with a text, as many times as it has tokens.
_WAYS_PER_TOKEN = 4
_LEAST_TIE, _LEAST_DIFFERENCE, _LEAST_DISAGREEMENT = 0.5, 0.005, 0.02


class Predictions:
    """The predictions of a runtime over all windows."""

    def __init__(self, reference: Reference, integer: bool):
        """Args:
        reference: the student.
        integer: whether to compare with the student whose products get their inputs in int8.
        """
        self._reference, self._integer = reference, integer
        self._behind: list[np.ndarray] = []
        self._same: list[np.ndarray] = []
        self._of_labels: list[np.ndarray] = []
        self._expected_of_labels: list[np.ndarray] = []
        self._long_behind: dict[int, float] = {}
        self._worst: tuple[float, str] = -1.0, ""

    def add(self, index: int, logits: np.ndarray) -> None:
        """Compares the logits float32 [T - begin, V] of a window."""
        begin, window = self._reference.begin, self._reference.windows[index]
        expected = self._reference.kept(self._integer)[index]
        self._behind.append(self._compare(window, begin, logits, expected))
        self._same.append(logits.argmax(-1) == expected.argmax(-1))
        # What follows the last token is not in the window.
        labels = np.array(window[begin + 1 :])
        rows = np.arange(len(labels))
        self._of_labels.append(_log_softmax(logits[:-1])[rows, labels])
        self._expected_of_labels.append(expected[rows, labels])

    def add_long(self, long: LongWindow) -> None:
        """Looks for what is no longer the student's; figures are not changed."""
        expected = self._reference.log_probs(long.window, long.begin, self._integer)
        self._long_behind[long.begin] = float(self._compare(long.window, long.begin, long.logits, expected).mean())

    def _compare(self, window: Sequence[int], begin: int, logits: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """How far each choice is behind the student's, float32 [T - begin]; the worst of all is kept."""
        choices = logits.argmax(-1)
        behind = behind_best(expected, choices)
        behind[~np.isfinite(logits).all(-1)] = np.inf
        place = int(behind.argmax())
        if behind[place] > self._worst[0]:
            read = window[: begin + place + 1]
            self._worst = float(behind[place]), _sentence(self._reference, read, int(choices[place]), expected[place], float(behind[place]))
        return behind

    def figures(self) -> dict[str, Any]:
        """Those of `FileParity`."""
        of_labels, expected = np.concatenate(self._of_labels), np.concatenate(self._expected_of_labels)
        difference, same = np.abs(of_labels - expected), np.concatenate(self._same)
        return {
            "tokens": len(same),
            "top1_agreement": float(same.mean()),
            "int8_top1_agreement": 1 - self._reference.noise.disagreement if self._integer else None,
            "max_abs_dlogprob": float(difference.max()),
            "mean_abs_dlogprob": float(difference.mean()),
            "nll": float(-of_labels.mean()),
            "student_nll": float(-expected.mean()),
        }

    def failures(self, path: str) -> list[str]:
        """In what they are not the student's."""
        begin = f"{path} does not compute what the student computes"
        # One choice among thousands may be far behind where int8 makes much of a difference: there it is the mean that counts.
        if self._worst[0] > (TIE if not self._integer else np.finfo(np.float32).max):
            return [f"{begin}: {self._worst[1]}"]
        if not self._integer:
            return []
        limit = tie(self._reference, self._integer)
        for tokens, behind in self._long_behind.items():
            if behind > limit:
                return [f"{begin}: after {tokens} tokens that were read at once its choices are {behind:.3f} nats behind in the mean"]
        noise, figures = self._reference.noise, self.figures()
        difference, disagreement = figures["mean_abs_dlogprob"], 1 - figures["top1_agreement"]
        if difference > _LEAST_DIFFERENCE + _NOISE_FACTOR * noise.difference:
            return [
                f"{begin}: log-probabilities are {difference:.4f} nats off in the mean, and int8 inputs account for {noise.difference:.4f}"
            ]
        if disagreement > _LEAST_DISAGREEMENT + _NOISE_FACTOR * noise.disagreement:
            return [f"{begin}: {disagreement:.1%} of its choices are others, and int8 inputs account for {noise.disagreement:.1%}"]
        return []


def compare_completions(path: str, completed: Completed, reference: Reference, integer: bool) -> tuple[float, list[str]]:
    """Follows greedy completions with the student, token by token, to their end.

    Returns:
      The share of their tokens, the one that ends them included, that are the student's first choice; and the first thing of each that
      the student would not have written.
    """
    failures, same = [], list[bool]()
    for index, (prompt, begin) in enumerate(zip(completed.prompts, completed.prompt_ids, strict=True)):
        tokenizer = reference.student.tokenizer
        if begin != [tokenizer.bos_id, *tokenizer.encode(prompt)]:
            failures.append(f"{path} reads {prompt[:60]!r} as other tokens than the student")
            continue
        if completed.ids is None:
            choices, wrong = _follow_text(begin, completed.texts[index], reference, integer, completed.max_new_tokens)
        else:
            choices, wrong = _follow_ids(begin, completed.ids[index], reference, integer, completed.max_new_tokens)
        same += choices
        if wrong:
            failures.append(f"{path} does not write what the student writes: {wrong}")
    return (float(np.mean(same)) if same else 0.0), failures


def _follow_ids(
    begin: Sequence[int], ids: Sequence[int], reference: Reference, integer: bool, max_new_tokens: int
) -> tuple[list[bool], str]:
    window = [*begin, *ids]
    expected = reference.log_probs(window, len(begin) - 1, integer)
    choices = list(ids)
    if len(ids) < max_new_tokens:
        choices.append(_likeliest_stop(reference, expected[-1]))
    rows = expected[: len(choices)]
    behind = behind_best(rows, np.array(choices, np.int64))
    wrong, limit = "", tie(reference, integer)
    if choices and (behind.mean() if integer else behind.max()) > limit:
        place = int((behind > limit).argmax())
        wrong = _sentence(reference, window[: len(begin) + place], choices[place], rows[place], float(behind[place]))
    return (rows.argmax(-1) == choices).tolist(), wrong


def _follow_text(begin: Sequence[int], text: str, reference: Reference, integer: bool, max_new_tokens: int) -> tuple[list[bool], str]:
    """The same where a runtime tells its text alone: some way along first choices and ties writes it, to its end.

    Where the runtime multiplies integers, the text's own next token is one way more, and how far all choices are behind counts in the mean.
    """
    tokenizer = reference.student.tokenizer
    stops, limit = stop_ids(tokenizer), tie(reference, integer)
    text = text.rstrip("\ufffd")

    def text_of(ids: Sequence[int]) -> str:
        # The last token may hold only the first bytes of a character.
        return tokenizer.decode(ids).rstrip("\ufffd")

    # Tokens, and how far each choice is behind the first; the likeliest way is the last one, and so tried first.
    ways: list[tuple[list[int], list[float]]] = [([], [])]
    # The one that wrote most before it was wrong.
    furthest: tuple[int, list[bool], str] = -1, [], ""
    for _ in range(_WAYS_PER_TOKEN * max_new_tokens):
        if not ways:
            break
        new, behind = ways.pop()
        written = text_of(new)
        ended = text == written and len(new) == max_new_tokens
        fitting: list[int] = []
        if len(new) < max_new_tokens:
            expected = reference.log_probs([*begin, *new], len(begin) + len(new) - 1, integer)[0]
            best = int(expected.argmax())
            stop = _likeliest_stop(reference, expected)
            if text == written and (integer or expected[best] - expected[stop] <= limit):
                behind, ended = [*behind, float(expected[best] - expected[stop])], True
            else:
                ties = np.flatnonzero(expected >= expected[best] - limit)
                words = ties[np.argsort(-expected[ties], kind="stable")].tolist()
                words += tokenizer.encode(text[len(written) :])[:1] if integer else []
                fitting = [word for word in dict.fromkeys(words) if word not in stops and text.startswith(text_of([*new, word]))]
                ways += [([*new, word], [*behind, float(expected[best] - expected[word])]) for word in reversed(fitting)]
        same = [distance == 0 for distance in behind]
        if ended and np.mean(behind) <= limit:
            return same, ""
        if fitting or len(written) <= furthest[0]:
            continue
        if ended:
            wrong = f"its choices are {np.mean(behind):.3f} nats behind the student's in the mean"
        elif len(new) == max_new_tokens:
            wrong = f"{text[-40:]!r} is more than the {max_new_tokens} tokens that were asked for"
        else:
            wrong = (
                f"after {text_of([*begin, *new])[-60:]!r} ({len(begin) + len(new)} tokens) it goes on with "
                f"{text[len(written) :][:40]!r}, and the student with {tokenizer.piece(best)!r}"
            )
        furthest = len(written), [*same, False], wrong
    return furthest[1:]


def tie(reference: Reference, integer: bool) -> float:
    """How far behind the student's first choice a choice may be, in nats."""
    return max(_LEAST_TIE, _NOISE_FACTOR * reference.noise.behind) if integer else TIE


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, dtype=np.float64, keepdims=True)).astype(np.float32)


def _likeliest_stop(reference: Reference, log_probs: np.ndarray) -> int:
    return max(stop_ids(reference.student.tokenizer), key=lambda word: log_probs[word])


def _sentence(reference: Reference, read: Sequence[int], choice: int, expected: np.ndarray, behind: float) -> str:
    tokenizer = reference.student.tokenizer
    after = f"after {tokenizer.decode(read)[-60:]!r} ({len(read)} tokens)"
    if not np.isfinite(behind):
        return f"{after} its scores are not finite"
    best = tokenizer.piece(int(expected.argmax()))
    return f"{after} it chooses {tokenizer.piece(choice)!r}, which the student puts {behind:.3f} nats behind {best!r}"
