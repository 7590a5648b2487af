"""One training step against the distiller that Keras ships: the same two models, the same batch, in turn.

    .venv/bin/python benchmarks/step.py --json

Teacher: the first 12 layers of the real Gemma 3 270M; student: its first 4; all 262,144 words; 4 windows of 128 tokens; AdamW. Each
contestant runs in a process of its own, so that its peak memory is its own: `keras.distillation.Distiller` with
`LogitsDistillation`, ours with the live teacher, and ours with stored targets (top 64). Rounds go in turn; rates are medians.
About 6 minutes on two cores, 8 GiB of memory.

Prints one JSON object as its last line. Ratios are ours over the peer's: `tokens_per_second_ratio`, `peak_memory_ratio` (the
highest resident memory of the process while it trains), `tokens_per_second_ratio_stored`; and `matmul_fraction`, the FLOP/s of our
step with stored targets over those of a float32 matrix product of the head's size, compiled by XLA in the same process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

CONTESTANTS = ("peer", "live", "stored")
BATCH, WINDOW, TOP_K = 4, 128, 64
TEACHER_LAYERS, STUDENT_LAYERS = 12, 4
WARM_UP, STEPS = 2, 3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    parser.add_argument("--rounds", type=int, default=2, help="how often each contestant runs")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.contestant:
        print(json.dumps(run(arguments.contestant)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for _ in range(arguments.rounds):
        for name in CONTESTANTS:
            done = subprocess.run(
                [sys.executable, __file__, "--contestant", name], stdout=subprocess.PIPE, text=True, check=True, env=quiet_environment()
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            if not arguments.json:
                print(name, found[name][-1], flush=True)

    def of(name: str, key: str) -> float:
        return statistics.median(measured[key] for measured in found[name])

    figures = {
        "tokens_per_second_ratio": of("live", "tokens_per_second") / of("peer", "tokens_per_second"),
        "peak_memory_ratio": of("live", "peak_bytes") / of("peer", "peak_bytes"),
        "tokens_per_second_ratio_stored": of("stored", "tokens_per_second") / of("peer", "tokens_per_second"),
        "matmul_fraction": of("stored", "matmul_fraction"),
        "step_memory_ratio": of("live", "step_bytes") / of("peer", "step_bytes"),
        "tokens_per_second": {name: of(name, "tokens_per_second") for name in CONTESTANTS},
        "peak_bytes": {name: of(name, "peak_bytes") for name in CONTESTANTS},
        "step_bytes": {name: of(name, "step_bytes") for name in CONTESTANTS},
    }
    print(json.dumps(figures))


def quiet_environment() -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def resident(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (the highest since `reset_peak`) of this process, in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))


def reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def run(contestant: str) -> dict[str, float]:
    """Trains for a few steps; what a contestant measures of itself."""
    import gc

    import keras
    import numpy as np
    import tensorflow as tf

    from gemma_tf_distill import build_student, load_teacher
    from gemma_tf_distill.config import StudentConfig
    from gemma_tf_distill.gemma.vocabulary import full_vocabulary

    keras.utils.set_random_seed(0)
    whole = load_teacher("gguf:package")
    words = full_vocabulary(whole.tokenizer)
    teacher = build_student(StudentConfig(layers=tuple(range(TEACHER_LAYERS))), whole, words, seed=0)
    student = build_student(StudentConfig(layers=tuple(range(STUDENT_LAYERS))), whole, words, seed=0)
    ids = np.array(whole.tokenizer.encode(np.__doc__ + (np.einsum.__doc__ or "") * 4), np.int32)
    tokens = np.resize(ids, [BATCH, WINDOW + 1])[:, : WINDOW + 1].copy()
    tokens[:, 0] = whole.tokenizer.bos_id
    del whole
    gc.collect()
    optimizer = keras.optimizers.AdamW(1e-4)
    optimizer.build(student.backbone.trainable_variables)

    step = {"peer": peer_step, "live": live_step, "stored": stored_step}[contestant](teacher, student, optimizer, tokens)
    if contestant == "stored":
        del teacher
    gc.collect()
    before = resident("VmRSS")
    for _ in range(WARM_UP):
        step()
    reset_peak()
    times = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    peak = resident("VmHWM")
    rate = BATCH * WINDOW / statistics.median(times)
    measured = {"tokens_per_second": rate, "peak_bytes": peak, "step_bytes": peak - before}
    if contestant == "stored":
        measured["matmul_fraction"] = rate * step_flops_per_token(student.backbone) / matmul_flops_per_second(tf, student.backbone)
    return measured


def peer_step(teacher: Any, student: Any, optimizer: Any, tokens: Any) -> Any:
    """`keras.distillation.Distiller` over logits, as its documentation sets it up."""
    import keras
    import keras_hub

    def language_model(gemma: Any) -> Any:
        return keras_hub.models.Gemma3CausalLM(backbone=gemma.backbone, preprocessor=None)

    distiller = keras.distillation.Distiller(
        teacher=language_model(teacher),
        student=language_model(student),
        distillation_losses=keras.distillation.LogitsDistillation(temperature=1.0),
        student_loss_weight=0.5,
    )
    distiller.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = {"token_ids": tokens[:, :-1], "padding_mask": (tokens[:, :-1] != 0).astype("int32")}
    return lambda: distiller.train_on_batch(inputs, tokens[:, 1:])


def live_step(teacher: Any, student: Any, optimizer: Any, tokens: Any) -> Any:
    """Ours, with the teacher's whole distribution."""
    import tensorflow as tf

    from gemma_tf_distill import DistillationConfig, DistillationTrainer, TrainingConfig

    trainer = DistillationTrainer(TrainingConfig(), DistillationConfig(targets="dense"))
    batch = {"tokens": tf.constant(tokens)}
    return lambda: float(trainer.train_step(batch, teacher, student, optimizer)["loss"])


def stored_step(teacher: Any, student: Any, optimizer: Any, tokens: Any) -> Any:
    """Ours, with the teacher's top k, scored before."""
    import tensorflow as tf

    from gemma_tf_distill import DistillationConfig, DistillationTrainer, TrainingConfig
    from gemma_tf_distill.teacher.targets import TargetScorer

    scored = TargetScorer(teacher, top_k=TOP_K)(tf.constant(tokens))
    trainer = DistillationTrainer(TrainingConfig(), DistillationConfig(top_k=TOP_K))
    batch = {"tokens": tf.constant(tokens), "teacher_ids": scored.teacher_ids, "teacher_log_probs": scored.teacher_log_probs}
    return lambda: float(trainer.train_step(batch, None, student, optimizer)["loss"])


def step_flops_per_token(backbone: Any) -> float:
    """Multiplications and additions of forward and backward: 6 a weight (Kaplan et al. 2020, section 2.1), tied embedding once.

    Attention's own products and everything that is not a matrix product are left out, so that this is a lower bound.
    """
    return 6.0 * backbone.count_params()


def matmul_flops_per_second(tf: Any, backbone: Any) -> float:
    """A float32 product of the head's size under XLA, the best of some."""
    states = tf.random.normal([BATCH * WINDOW, backbone.hidden_dim])
    embedding = tf.random.normal([backbone.hidden_dim, 32_768])
    product = tf.function(lambda a, b: tf.matmul(a, b), jit_compile=True)
    times = []
    for _ in range(8):
        begun = time.perf_counter()
        product(states, embedding).numpy()
        times.append(time.perf_counter() - begun)
    return 2.0 * BATCH * WINDOW * backbone.hidden_dim * 32_768 / min(times)


if __name__ == "__main__":
    main()
