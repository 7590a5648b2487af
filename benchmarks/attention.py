"""Attention in blocks against KerasHub's: memory on a TPU, and how time grows with the length on this CPU.

    python benchmarks/attention.py --json

One attention layer of Gemma 3 270M (4 query heads, 1 key head of 256, hidden 640, window 512) in KerasHub's decoder block, its mask, its
projections, forward and gradient. The TPU's memory is what its own compiler plans (extra `tpu`; no TPU needed); the times are medians of
rounds in which the variants take turns. About six minutes on two cores. With --json the last line is one JSON object.
"""

import argparse
import functools
import json
from collections.abc import Callable
from typing import Any

import keras_hub
import tensorflow as tf
from in_turns import median_seconds

from gemma_tf_distill.config import AttentionConfig
from gemma_tf_distill.gemma.attention_in_place import efficient_attention
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.xla.tpu_compiler import tpu_memory

IN_BLOCKS = EfficientAttention(AttentionConfig(use_flash_attention=True))
HIDDEN, WINDOW = 640, 512
ON_TPU, ON_CPU = 8192, 4096
# At 8,192 tokens KerasHub's scores, their softmax and the gradients of both would take over 4 GB of a CPU's memory.
KERAS_HUB_ON_CPU = 2048


def backbone_of(dtype: str, *, local: bool) -> keras_hub.models.Gemma3Backbone:
    """One decoder block with the attention of the 270M; the rest of it is small and is not run."""
    return keras_hub.models.Gemma3Backbone(
        vocabulary_size=8,
        image_size=None,
        num_layers=1,
        num_query_heads=4,
        num_key_value_heads=1,
        hidden_dim=HIDDEN,
        intermediate_dim=8,
        head_dim=256,
        use_query_key_norm=True,
        use_sliding_window_attention=local,
        sliding_window_size=WINDOW,
        dtype=dtype,
    )


def layer_and_gradients(
    backbone: keras_hub.models.Gemma3Backbone, attention: EfficientAttention | None
) -> tf.types.experimental.PolymorphicFunction:
    """A compiled function of normed states [1, T, hidden] and a padding mask [1, T]; gradients of the states and the layer's weights."""
    block = backbone.transformer_layers[0]

    @tf.function(jit_compile=True)
    def run(states: tf.Tensor, padding_mask: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        weights = [variable.value for variable in block.attention.trainable_variables]
        with tf.GradientTape() as tape, efficient_attention(backbone, attention):
            tape.watch(states)
            mask = block._compute_attention_mask(states, padding_mask, None, None, 0)
            output = block.attention(states, attention_mask=mask)
            loss = tf.reduce_sum(tf.square(tf.cast(output, tf.float32)))
        return loss, tape.gradient(loss, [states, *weights])

    return run


def temporaries_on_tpu(length: int, attention: EfficientAttention | None, *, local: bool) -> int:
    """Bytes; one window in bfloat16."""
    function = layer_and_gradients(backbone_of("bfloat16", local=local), attention)
    return tpu_memory(function, tf.TensorSpec([1, length, HIDDEN], tf.bfloat16), tf.TensorSpec([1, length], tf.int32)).temporaries


def call_on_cpu(length: int, attention: EfficientAttention | None, *, local: bool = True) -> Callable[[], tf.Tensor]:
    """A call on one window of random states in float32."""
    function = layer_and_gradients(backbone_of("float32", local=local), attention)
    states = tf.random.stateless_normal([1, length, HIDDEN], [0, length])
    called: Callable[[], Any] = functools.partial(function, states, tf.ones([1, length], tf.int32))
    return lambda: called()[0]


def main() -> None:
    """Measures, prints, and with --json ends with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: 9)")
    arguments = parser.parse_args()

    figures: dict[str, float] = {}
    for kind, local in (("", True), ("global_", False)):
        ours, theirs = (temporaries_on_tpu(ON_TPU, attention, local=local) for attention in (IN_BLOCKS, None))
        figures |= {
            f"tpu_{kind}temp_ratio": ours / theirs,
            f"tpu_{kind}temp_bytes": ours,
            f"tpu_{kind}temp_bytes_keras_hub": theirs,
        }
        print(
            f"TPU v5e, a {'local' if local else 'global'} layer, {ON_TPU:,} tokens: temporaries {ours / 2**20:,.1f} MiB in blocks, "
            f"{theirs / 2**20:,.1f} MiB in KerasHub"
        )
    seconds = median_seconds(
        {
            "ours": call_on_cpu(ON_CPU, IN_BLOCKS),
            "ours, twice as long": call_on_cpu(2 * ON_CPU, IN_BLOCKS),
            "ours, global": call_on_cpu(ON_CPU, IN_BLOCKS, local=False),
            "KerasHub": call_on_cpu(KERAS_HUB_ON_CPU, None),
            "KerasHub, twice as long": call_on_cpu(2 * KERAS_HUB_ON_CPU, None),
        },
        arguments.rounds,
    )
    figures |= {
        "cpu_doubling_factor": seconds["ours, twice as long"] / seconds["ours"],
        "keras_hub_doubling_factor": seconds["KerasHub, twice as long"] / seconds["KerasHub"],
        "cpu_time_ratio": seconds["ours"] / seconds["KerasHub, twice as long"],
        "cpu_global_time_ratio": seconds["ours, global"] / seconds["KerasHub, twice as long"],
    }
    print(
        f"CPU, a local layer: {seconds['ours']:.2f} s at {ON_CPU:,} tokens and {seconds['ours, twice as long']:.2f} s at {2 * ON_CPU:,} in "
        f"blocks; KerasHub {seconds['KerasHub']:.2f} s at {KERAS_HUB_ON_CPU:,} and {seconds['KerasHub, twice as long']:.2f} s at "
        f"{2 * KERAS_HUB_ON_CPU:,}; a global layer in blocks {seconds['ours, global']:.2f} s at {ON_CPU:,}"
    )
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
