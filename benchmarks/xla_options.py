"""What the section `xla` of a config changes: the time of a training step, and of the first one, which compiles.

    python benchmarks/xla_options.py --json

A student of four layers with the 270M's sizes and 32,768 words, fresh weights, on stored targets (top 64), 8 windows of 128 tokens. Every
variant runs in a process of its own with the environment that `XlaConfig.environment` gives it, in turn. Autotuning has flags for GPUs
only and is not here. About five minutes on two cores.

With --json the last line is one JSON object: for each variant `step` and `first_step`, its seconds over those of the default, which is
`jit_scope: step` without flags or cache.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from gemma_tf_distill.config import XlaConfig

if TYPE_CHECKING:
    from gemma_tf_distill.gemma.tokenizer import Tokenizer

WINDOWS, WINDOW, WORDS, TOP_K, LAYERS = 8, 128, 32_768, 64, 4
STEPS = 4


def variants(cache: str) -> dict[str, XlaConfig]:
    """By name; the two of the cache in this order, since the first one fills it."""
    return {
        "default": XlaConfig(),
        "jit_scope=none": XlaConfig(jit_scope="none"),
        "fast_math": XlaConfig(flags=("--xla_cpu_enable_fast_math=true",)),
        "no_fusion": XlaConfig(flags=("--xla_disable_hlo_passes=fusion",)),
        "quick_compilation": XlaConfig(flags=("--xla_llvm_disable_expensive_passes=true",)),
        "cache, filled": XlaConfig(cache_dir=cache),
        "cache, read": XlaConfig(cache_dir=cache),
    }


def measure(config: XlaConfig) -> dict[str, float]:
    """Seconds of the first step and the median of those that follow, in this process."""
    import keras
    import keras_hub
    import tensorflow as tf

    from gemma_tf_distill import DistillationConfig, DistillationTrainer, TrainingConfig
    from gemma_tf_distill.gemma.model import Gemma
    from gemma_tf_distill.gemma.presets import preset_architecture
    from gemma_tf_distill.training.optimizers import make_optimizer
    from gemma_tf_distill.xla.optimizer import XLAOptimizer

    keras.utils.set_random_seed(0)
    sizes = preset_architecture("gemma3_270m") | {"num_layers": LAYERS, "vocabulary_size": WORDS}
    # No text is read: of the tokenizer a step wants the number of words.
    tokenizer = cast("Tokenizer", SimpleNamespace(vocabulary_size=WORDS, proto=b"", pad_id=0))
    student = Gemma(keras_hub.models.Gemma3Backbone(**sizes), tokenizer)
    training = TrainingConfig(batch_size=WINDOWS)
    trainer = DistillationTrainer(training, DistillationConfig(top_k=TOP_K), xla=XLAOptimizer(config))
    optimizer = make_optimizer(training, 100, trainer.trainable_variables(None, student))
    shape = [WINDOWS, WINDOW - 1, TOP_K]
    batch = {
        "tokens": tf.random.uniform([WINDOWS, WINDOW], 3, WORDS, tf.int32, seed=0),
        "teacher_ids": tf.reshape(tf.range(TOP_K), [1, 1, -1]) * tf.ones(shape, tf.int32) * (WORDS // TOP_K),
        "teacher_log_probs": tf.nn.log_softmax(tf.random.normal(shape, seed=1)),
    }
    seconds = []
    for _ in range(STEPS + 1):
        begun = time.perf_counter()
        float(trainer.train_step(batch, None, student, optimizer)["loss"])
        seconds.append(time.perf_counter() - begun)
    return {"first_step": seconds[0], "step": statistics.median(seconds[1:])}


def main() -> None:
    """Measures, prints, and with --json ends with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=2, help="how often each variant runs (default: 2)")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(variants(arguments.cache)[arguments.variant])))
        return
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for name, config in variants(cache).items():
                command = [sys.executable, __file__, "--variant", name, "--cache", cache]
                environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **config.environment(os.environ)}
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
                found.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))
    medians = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    for name, seconds in medians.items():
        print(f"{name}: first step {seconds['first_step']:.1f} s, step {seconds['step']:.2f} s")
    if arguments.json:
        print(
            json.dumps(
                {name: {key: value / medians["default"][key] for key, value in seconds.items()} for name, seconds in medians.items()}
            )
        )


if __name__ == "__main__":
    main()
