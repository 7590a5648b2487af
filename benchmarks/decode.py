"""Decoding one token after another: our files beside llama.cpp, and our SavedModel beside KerasHub's `generate`.

    .venv/bin/python benchmarks/decode.py --json

The model is the real Gemma 3 270M with all 262,144 words. Every contestant runs in a process of its own, on all processors; rounds go in
turn, and of each contestant the best round counts, since other processes only ever slow it down. Each writes 64 tokens after a prompt of
16. llama.cpp runs the 253 MB GGUF (4 bits, the embedding in 6 to 8) that the extra `demo` carries; `tflite` and `litert_lm` hold int4 in
blocks of 32 and the embedding in int8 (231 MB), `tflite_int4` int4 throughout. About 5 minutes on two cores, 6 GiB of memory.

Prints one JSON object as its last line: `litert_vs_llama_cpp`, `litert_int4_vs_llama_cpp`, `litert_lm_vs_llama_cpp` and
`saved_model_vs_keras_hub`, our tokens a second over the peer's; `tokens_per_second` of each; `cache_bytes_ratio`, the bytes of the
key-value caches at 32,768 tokens over those of caches of that length in every layer.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

PROMPT_TOKENS, NEW_TOKENS, CONTEXT = 16, 64, 512
# What a greedy 270M goes on with for longer than that.
PROMPT = "Parameters\n----------\nvalues : array of numbers\n    The"
INT4, MIXED = (
    {"quantization.scheme": "int4_block32"},
    {"quantization.scheme": "int4_block32", "quantization.overrides": "{embedding: int8_channel}"},
)
EXPORTS = {
    "mixed": ({**MIXED, "export.formats": "[saved_model, tflite, litertlm]"}),
    "int4": ({**INT4, "export.formats": "[saved_model, tflite]"}),
    "float": ({"export.formats": "[saved_model]"}),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contestant runs")
    parser.add_argument("--files", type=pathlib.Path, help="where the exported files are kept (default: a temporary folder)")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.contestant:
        print(json.dumps(CONTESTANTS[arguments.contestant](arguments.files)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        files = arguments.files or pathlib.Path(temporary)
        for name, settings in EXPORTS.items():
            if not (files / name).exists():
                export(files / name, settings)
        best = dict.fromkeys(CONTESTANTS, 0.0)
        for _ in range(arguments.rounds):
            for name in CONTESTANTS:
                command = [sys.executable, __file__, "--contestant", name, "--files", str(files)]
                done = subprocess.run(
                    command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
                )
                rate = json.loads(done.stdout.splitlines()[-1])
                best[name] = max(best[name], rate)
                if not arguments.json:
                    print(f"{name:12} {rate:6.1f} tokens/s", flush=True)
    figures = {
        "litert_vs_llama_cpp": best["tflite"] / best["llama_cpp"],
        "litert_int4_vs_llama_cpp": best["tflite_int4"] / best["llama_cpp"],
        "litert_lm_vs_llama_cpp": best["litert_lm"] / best["llama_cpp"],
        "saved_model_vs_keras_hub": best["saved_model"] / best["keras_hub"],
        "cache_bytes_ratio": cache_bytes_ratio(32_768),
        "tokens_per_second": best,
    }
    print(json.dumps(figures))


def export(folder: pathlib.Path, settings: dict[str, str]) -> None:
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "gemma_tf_distill.cli", "export", "gguf:package", str(folder), *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def rate_of(read: Callable[[int, int], int], prompt: list[int]) -> float:
    """Tokens a second of `read(token, position)`, which reads one token and returns the next."""
    token = prompt[-1]
    began = 0.0
    for position in range(len(prompt) - 1, len(prompt) + NEW_TOKENS):
        # The first one warms up.
        if position == len(prompt):
            began = time.perf_counter()
        token = read(token, position)
    return NEW_TOKENS / (time.perf_counter() - began)


def prompt_ids() -> list[int]:
    from gemma_tf_distill.gemma.teacher import load_tokenizer

    tokenizer = load_tokenizer("gguf:package")
    return [tokenizer.bos_id, *tokenizer.encode(PROMPT)][:PROMPT_TOKENS]


def llama_cpp(files: pathlib.Path) -> float:
    from llama_cpp_py_sync import Llama
    from llama_cpp_py_sync._cffi_bindings import get_ffi

    from gemma_tf_distill.gemma.package import package_file

    # It prints thousands of lines.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threads = os.cpu_count()
    model = Llama(str(package_file()), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads)
    # Its public `generate` turns tokens into text, looks for stops and sorts all words, which no other contestant here does.
    prompt = prompt_ids()
    model._eval_tokens(prompt[:-1], 0)

    def read(token: int, position: int) -> int:
        model._eval_tokens([token], position)
        logits = get_ffi().buffer(model._lib.llama_get_logits_ith(model._ctx, -1), 4 * model.n_vocab)
        return int(np.frombuffer(logits, np.float32).argmax())

    return rate_of(read, prompt)


def litert(path: pathlib.Path) -> float:
    from gemma_tf_distill.export.litert_runtime import LiteRtModel

    model, prompt = LiteRtModel(path), prompt_ids()
    model.prefill(prompt[:-1])
    return rate_of(lambda token, position: int(model.decode(token, position).argmax()), prompt)


def litert_lm(files: pathlib.Path) -> float:
    from gemma_tf_distill.export.litert_lm_runtime import measure_litert_lm

    return measure_litert_lm(str(files / "mixed" / "model.litertlm"), CONTEXT, PROMPT_TOKENS, NEW_TOKENS)[1]


def saved_model(files: pathlib.Path) -> float:
    from gemma_tf_distill.export.saved_model_runtime import SavedModelModel

    model = SavedModelModel(files / "float" / "saved_model")
    return _rate_of_loop(lambda new: len(model.generate([PROMPT], new)[0]))


def keras_hub(files: pathlib.Path) -> float:
    import keras_hub

    from gemma_tf_distill.gemma.teacher import load_teacher

    gemma = load_teacher("gguf:package")
    preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(tokenizer=gemma.tokenizer.keras_hub(), sequence_length=CONTEXT)
    model = keras_hub.models.Gemma3CausalLM(backbone=gemma.backbone, preprocessor=preprocessor)
    model.compile(sampler="greedy")
    length = len(gemma.tokenizer.encode(PROMPT)) + 1

    def generate(new: int) -> int:
        model.generate([PROMPT], max_length=length + new, stop_token_ids=None)
        return new

    return _rate_of_loop(generate)


def _rate_of_loop(generate: Callable[[int], int]) -> float:
    """Tokens a second of a loop inside a graph: what 64 tokens take longer than one does, both compiled before."""

    def seconds(new: int) -> float:
        generate(new)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            found = generate(new)
            times.append(time.perf_counter() - began)
            if found != new:
                raise SystemExit(f"the completion ended after {found} of {new} tokens: choose another prompt")
        return min(times)

    return NEW_TOKENS / (seconds(1 + NEW_TOKENS) - seconds(1))


def cache_bytes_ratio(context_length: int) -> float:
    import tensorflow as tf

    from gemma_tf_distill.gemma.functional import empty_cache, shape_of
    from gemma_tf_distill.gemma.teacher import load_teacher

    shape = shape_of(load_teacher("gguf:package"))
    traced = tf.function(lambda: empty_cache(shape, 1, context_length)).get_concrete_function()
    numbers = sum(tensor.shape.num_elements() for pair in traced.structured_outputs for tensor in pair)
    return numbers / (2 * shape.num_layers * shape.num_key_value_heads * context_length * shape.head_dim)


CONTESTANTS: dict[str, Callable[[pathlib.Path], float]] = {
    "llama_cpp": llama_cpp,
    "tflite": lambda files: litert(files / "mixed" / "model.tflite"),
    "tflite_int4": lambda files: litert(files / "int4" / "model.tflite"),
    "litert_lm": litert_lm,
    "saved_model": saved_model,
    "keras_hub": keras_hub,
}

if __name__ == "__main__":
    main()
