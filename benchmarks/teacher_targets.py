"""Stored targets: bytes a token, what they lose of the teacher, and how fast they are read.

    .venv/bin/python benchmarks/teacher_targets.py --json

Begins with what `gemma-distill run demo` left in its folder (made where it is missing): the real 270M over the demo's words, its held-out
windows, its trained student. The demo asks its teacher while it trains, so that its windows are scored here, 256 draws a token. About
six minutes after the demo.

`bytes_per_token` is that of the store on disk, tokens and framing included; `read_tokens_per_second` is that of its batches as
training reads them, one after the other. `kl_lost_fraction` compares, on held-out tokens, KL(teacher || student) over the whole
vocabulary with what the targets show of it, encoded and decoded as in the store: the difference of the means, over the teacher's mean
entropy. Words that were drawn show the KL through their cross-entropy, which is right on average; words outside a top k are one event,
which hides the KL among them. `settings` has the same for other kinds of targets, whose `bytes_per_token` is the compressed part alone.
"""

import argparse
import json
import math
import pathlib
import time
from typing import Any

import numpy as np
from demo_artifacts import artifacts

# Kind, and k or the number of draws.
SETTINGS = (("sampled", 64), ("sampled", 256), ("top_k", 64), ("top_k", 256))
BATCH, BATCHES = 4, 8


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/demo"), help="the demo's folder")
    return parser.parse_args()


def stored(scorers: dict[Any, Any], kind: str, words: int, tokens: Any, least_probability: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Targets of windows as the store gives them back, [B, N, words] each, and their bytes."""
    import tensorflow as tf

    from gemma_tf_distill.teacher.codec import decode_draws, decode_top_k, encode_draws, encode_top_k

    predictions = tokens.shape[1] - 1
    if kind == "sampled":
        uniforms = np.random.default_rng(0).random((tokens.shape[0], predictions), np.float32)
        found = scorers[kind, words](tokens, tf.constant(uniforms))
        encoded = [encode_draws(ids) for ids in found.teacher_ids.numpy()]
        decoded = [decode_draws(data, predictions, words) for data in encoded]
    else:
        found = scorers[kind, words](tokens)
        least = math.log(least_probability)
        encoded = [encode_top_k(*window, least) for window in zip(found.teacher_ids.numpy(), found.teacher_log_probs.numpy(), strict=True)]
        decoded = [decode_top_k(data, predictions, words) for data in encoded]
    ids, log_probs = (np.stack(values) for values in zip(*decoded, strict=True))
    return ids, log_probs, sum(map(len, encoded))


def lost_and_bytes(config: Any, teacher: Any, student: Any, heldout: list[str], window: int) -> dict[tuple[str, int], dict[str, float]]:
    import tensorflow as tf

    from gemma_tf_distill.data.batches import evaluation_batches
    from gemma_tf_distill.data.examples import labels_and_mask
    from gemma_tf_distill.teacher.targets import SampledTargetScorer, TargetScorer
    from gemma_tf_distill.transfer.divergences import forward_kl
    from gemma_tf_distill.transfer.supports import NO_WORD, at_words, with_tail

    scorers = {
        (kind, words): SampledTargetScorer(teacher, draws=words) if kind == "sampled" else TargetScorer(teacher, top_k=words)
        for kind, words in SETTINGS
    }
    log_probs = {
        name: tf.function(lambda tokens, model=model: tf.nn.log_softmax(model.logits(tokens[:, :-1])), jit_compile=True)
        for name, model in (("teacher", teacher), ("student", student))
    }
    sums = dict.fromkeys(("entropy", "kl", "tokens"), 0.0)
    shown, size = dict.fromkeys(SETTINGS, 0.0), dict.fromkeys(SETTINGS, 0)
    for batch in evaluation_batches(heldout, window=window, top_k=config.distillation.top_k, batch_size=BATCH).take(BATCHES):
        tokens = batch["tokens"]
        mask = labels_and_mask(tokens)[1]
        p, q = log_probs["teacher"](tokens), log_probs["student"](tokens)
        entropy = -tf.reduce_sum(tf.exp(p) * p, -1)
        sums["entropy"] += float(tf.reduce_sum(entropy * mask))
        sums["kl"] += float(tf.reduce_sum(forward_kl(p, q) * mask))
        sums["tokens"] += float(tf.reduce_sum(mask))
        for kind, words in SETTINGS:
            ids, found, count = stored(scorers, kind, words, tokens, config.distillation.least_probability)
            size[kind, words] += count
            mine = tf.where(found > NO_WORD / 2, at_words(q, tf.constant(ids)), NO_WORD)
            if kind == "sampled":
                kl = -tf.reduce_sum(tf.exp(found) * mine, -1) - entropy
            else:
                kl = forward_kl(with_tail(tf.constant(found)), with_tail(mine))
            shown[kind, words] += float(tf.reduce_sum(kl * mask))
    return {
        setting: {
            "kl_lost_fraction": (sums["kl"] - shown[setting]) / sums["entropy"],
            "bytes_per_token": size[setting] / sums["tokens"],
        }
        for setting in SETTINGS
    }


def read_speed(store: Any, batch_size: int) -> float:
    """Tokens a second of two passes, after the first batch."""
    batches = iter(store.batches(store.files(), batch_size=batch_size, seed=0))
    next(batches)
    count = 2 * store.windows // batch_size
    begun = time.perf_counter()
    for _ in range(count):
        tokens = next(batches)["tokens"]
    return count * tokens.shape[0] * tokens.shape[1] / (time.perf_counter() - begun)


def main() -> None:
    from gemma_tf_distill import Gemma, load_config, load_teacher
    from gemma_tf_distill.data.batches import split_files
    from gemma_tf_distill.gemma.vocabulary import Vocabulary
    from gemma_tf_distill.teacher.target_store import TargetStore

    arguments = parse_arguments()
    config = load_config("demo")
    nodes = artifacts(config, arguments.output, ["CorpusGen", "TeacherScorer", "Distiller"])
    sampled = load_config("demo", ["distillation.targets=sampled"])
    store = TargetStore(artifacts(sampled, arguments.output, ["TeacherScorer"])["TeacherScorer"]["scored_examples"])
    teacher = load_teacher(config.teacher.source, vocabulary=Vocabulary.load(nodes["CorpusGen"]["tokenizer"]))
    student = Gemma.load(f"{nodes['Distiller']['student']}/student")
    heldout = split_files(nodes["TeacherScorer"]["scored_examples"], "heldout")
    settings = lost_and_bytes(config, teacher, student, heldout, config.corpus.window)
    for (kind, words), found in settings.items():
        print(f"{kind:8} {words:4}", " ".join(f"{name} {value:.4f}" for name, value in found.items()), flush=True)
    figures = {
        "bytes_per_token": store.index["bytes_per_token"],
        "kl_lost_fraction": abs(settings[store.address.kind, store.address.words]["kl_lost_fraction"]),
        "read_tokens_per_second": read_speed(store, config.training.batch_size),
        "settings": {f"{kind} {words}": found for (kind, words), found in settings.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
