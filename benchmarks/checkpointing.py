"""Gradient checkpointing of decoder blocks: memory on a TPU and time on this CPU, with it and without.

    python benchmarks/checkpointing.py --json

Six layers of the 270M's sizes, forward and gradient, without the loss over the vocabulary. The TPU's memory is what its own compiler
plans (extra `tpu`; no TPU needed), for 4 windows of 1,024 tokens in bfloat16; the times are medians of rounds in which the variants
take turns, for 8 windows of 127 tokens in float32. About four minutes on two quiet cores. With --json the last line is one JSON object.
"""

import argparse
import json
from collections.abc import Callable

import keras_hub
import tensorflow as tf
from in_turns import median_seconds

from gemma_tf_distill.gemma.presets import preset_architecture
from gemma_tf_distill.gemma.taps import forward
from gemma_tf_distill.xla.tpu_compiler import tpu_memory

LAYERS = 6
ON_TPU, ON_CPU = (4, 1024), (8, 127)


def gradient_step(dtype: str, *, checkpointing: bool) -> tf.types.experimental.PolymorphicFunction:
    """A compiled function from tokens int32 [B, N] to the loss and the gradients of all weights of a fresh model."""
    sizes = preset_architecture("gemma3_270m") | {"num_layers": LAYERS, "vocabulary_size": 1024}
    backbone = keras_hub.models.Gemma3Backbone(**sizes, dtype=dtype)
    variables = [variable.value for variable in backbone.trainable_variables]

    @tf.function(jit_compile=True)
    def run(tokens: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        inputs = {"token_ids": tokens, "padding_mask": tf.cast(tokens >= 0, tf.int32)}
        with tf.GradientTape() as tape:
            states = tf.cast(forward(backbone, inputs, checkpointing=checkpointing).states, tf.float32)
            loss = tf.reduce_mean(tf.abs(states - 1.0))
        return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]

    return run


def temporaries(checkpointing: bool) -> int:
    """Bytes on a TPU v5e."""
    return tpu_memory(gradient_step("mixed_bfloat16", checkpointing=checkpointing), tf.TensorSpec(ON_TPU, tf.int32)).temporaries


def seconds(rounds: int) -> dict[str, float]:
    """Medians of a step that keeps its activations, and of one that computes them again."""
    tokens = tf.random.uniform(ON_CPU, 0, 1024, tf.int32, seed=0)

    def call(checkpointing: bool) -> Callable[[], tf.Tensor]:
        step = gradient_step("float32", checkpointing=checkpointing)
        return lambda: step(tokens)[0]

    return median_seconds({"kept": call(False), "recomputed": call(True)}, rounds)


def main() -> None:
    """Measures, prints, and with --json ends with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: 9)")
    arguments = parser.parse_args()
    kept, recomputed = temporaries(False), temporaries(True)
    times = seconds(arguments.rounds)
    figures = {"activation_ratio": kept / recomputed, "time_ratio": times["recomputed"] / times["kept"]}
    print(f"TPU v5e, {LAYERS} layers, {ON_TPU[0]} x {ON_TPU[1]} tokens: temporaries {kept / 2**20:,.0f} and {recomputed / 2**20:,.0f} MiB")
    print(f"CPU, {ON_CPU[0]} x {ON_CPU[1]} tokens: {times['kept']:.3f} and {times['recomputed']:.3f} s a step")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
