"""The process that runs one exported file in its own runtime: `python -m gemma_tf_distill.export.parity.worker FILE_DESCRIPTOR`.

It reads a `Request` as JSON from standard input and sends, through the pipe with that descriptor: for every window an array float32
[T - begin, V] of logits and then a list of `LongWindow`s, where the runtime tells scores; `Completed`; `Measured`. Or, at any point, an
error as a text.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import numpy as np

from gemma_tf_distill.errors import UserError
from gemma_tf_distill.export.generation import LiteRtLmGenerator, TokenGenerator, TokenModel, load_generator
from gemma_tf_distill.export.litert_lm_runtime import measure_litert_lm
from gemma_tf_distill.export.parity.messages import Completed, LongWindow, Measured, Request
from gemma_tf_distill.export.saved_model_runtime import SavedModelModel

# Tokens that are written to measure how fast that is.
_TIMED_TOKENS = 32
# Tokens of a long text (two windows of the local layers of most Gemmas, and a bit), and how many after it are compared.
_LONG, _AFTER_LONG = 1_088, 8
# Runs of which the fastest counts, since other processes only ever slow them down.
_RUNS = 3


def main(descriptor: int) -> None:
    """Answers one request."""
    connection = Connection(descriptor, readable=False)
    request = Request(**json.load(sys.stdin))
    try:
        generator = load_generator(request.path)
        if isinstance(generator, LiteRtLmGenerator):
            connection.send(_completed_texts(generator, request))
            context_length = generator.context_length
            # Its benchmark loads the file anew, and the peak is to be that of one.
            del generator
            new = min(_TIMED_TOKENS, context_length - request.begin)
            connection.send(_measured(*measure_litert_lm(request.path, context_length, request.begin, new)))
            return
        assert isinstance(generator, TokenGenerator)
        for window in request.windows:
            connection.send(predictions(generator.model, window, request.begin))
        connection.send(_long_windows(generator.model, request))
        connection.send(_completed(generator, request))
        connection.send(_measured(*_speed(generator, request)))
    except UserError as error:
        connection.send(str(error))


def predictions(model: TokenModel, window: Sequence[int], begin: int) -> np.ndarray:
    """Logits float32 [T - begin, V] after each token of a window from `begin` on."""
    model.prefill(window[:begin])
    return model.read(window[begin:], begin)


def _long_windows(model: TokenModel, request: Request) -> list[LongWindow]:
    """One after each length that a `.tflite` reads at once, and one over the rings of local layers, as far as the context goes."""
    lengths = {*getattr(model, "prefill_lengths", ()), _LONG}
    joined = [token for window in request.windows for token in window]
    text = (joined * -(-(_LONG + _AFTER_LONG) // len(joined)))[: model.context_length]
    begins = sorted({min(length, len(text) - 1) for length in lengths if length > request.begin})
    windows = [(text[: begin + _AFTER_LONG], begin) for begin in begins]
    found = []
    for window, begin in windows:
        model.prefill(window[:begin])
        # One by one, as a completion is made.
        logits = [model.decode(window[position], position) for position in range(begin, len(window))]
        found.append(LongWindow(window, begin, np.stack(logits)))
    return found


def _completed(generator: TokenGenerator, request: Request) -> Completed:
    fitting, count = _fitting(generator.codec.encode, request, generator.context_length)
    if isinstance(generator.model, SavedModelModel):
        # As a server calls it: all prompts at once, in one graph.
        new = generator.model.generate(list(fitting), count)
    else:
        new = [list(generator.token_ids(ids, count)) for ids in fitting.values()]
    return Completed(list(fitting), list(fitting.values()), new, [generator.codec.decode(ids) for ids in new], count)


def _completed_texts(generator: LiteRtLmGenerator, request: Request) -> Completed:
    fitting, count = _fitting(generator.model.encode, request, generator.context_length)
    texts = ["".join(generator.generate(prompt, count)) for prompt in fitting]
    return Completed(list(fitting), list(fitting.values()), None, texts, count)


def _fitting(encode: Callable[[str], list[int]], request: Request, context_length: int) -> tuple[dict[str, list[int]], int]:
    """The prompts that leave room for the tokens that are asked for, and these; else the empty prompt, and what it leaves."""
    tokenized = {prompt: encode(prompt) for prompt in request.prompts}
    fitting = {prompt: ids for prompt, ids in tokenized.items() if len(ids) + request.max_new_tokens <= context_length}
    return (fitting, request.max_new_tokens) if fitting else ({"": encode("")}, min(request.max_new_tokens, context_length - 1))


def _speed(generator: TokenGenerator, request: Request) -> tuple[float, float]:
    """Prefill and decode in tokens a second."""
    model, window = generator.model, request.windows[0]
    new = min(_TIMED_TOKENS, len(window) - request.begin)

    def read() -> tuple[float, float]:
        began = time.perf_counter()
        model.prefill(window[: request.begin])
        between = time.perf_counter()
        for position in range(request.begin, request.begin + new):
            model.decode(window[position], position)
        return between - began, time.perf_counter() - between

    prefill, decode = (min(times) for times in zip(*(read() for _ in range(_RUNS)), strict=True))
    return request.begin / prefill, _graph_speed(model, request.prompts[0]) or new / decode


def _graph_speed(model: TokenModel, prompt: str) -> float | None:
    """New tokens a second of a SavedModel's own loop, as a server calls it; none where the completion ends at once."""
    if not isinstance(model, SavedModelModel):
        return None

    def run(new: int) -> tuple[float, int]:
        began = time.perf_counter()
        (ids,) = model.generate([prompt], new)
        return time.perf_counter() - began, len(ids)

    run(2)
    one, many = (min(run(new) for _ in range(_RUNS)) for new in (1, 1 + _TIMED_TOKENS))
    ended, seconds = many[1] <= _TIMED_TOKENS / 2, many[0] - one[0]
    return None if ended or seconds <= 0 else (many[1] - 1) / seconds


def _measured(prefill: float, decode: float) -> Measured:
    with open("/proc/self/status", encoding="ascii") as file:
        match = re.search(r"VmHWM:\s+(\d+) kB", file.read())
    assert match
    return Measured(prefill, decode, int(match[1]) * 1024)


if __name__ == "__main__":
    main(int(sys.argv[1]))
