"""The loss over a whole vocabulary: in chunks of tokens against all logits at once, in memory on a TPU and in time on this CPU.

    python benchmarks/vocabulary_loss.py --json

The TPU's memory is what its own compiler plans (extra `tpu`; no TPU needed); the times are medians of rounds in which the variants take
turns. About two minutes on two quiet cores. With --json the last line is one JSON object; ratios are ours over dense.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable

import tensorflow as tf
from in_turns import median_seconds

from gemma_tf_distill.config import DistillationConfig
from gemma_tf_distill.transfer.head import head_logits
from gemma_tf_distill.transfer.token_losses import SoftAndHardTargets
from gemma_tf_distill.transfer.vocabulary_loss import Targets, TokenLoss, default_chunk, vocabulary_loss
from gemma_tf_distill.xla.tpu_compiler import tpu_memory

Tensors = tuple[tf.Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Size:
    """One case: a student of `width`, and a live teacher of `teacher_width` or, where that is 0, its `top_k` best words."""

    tokens: int
    words: int
    width: int
    teacher_width: int = 0
    top_k: int = 0

    @property
    def flops(self) -> int:
        """Of the matrix products, forward and backward; the teacher's only forward."""
        return 2 * self.tokens * self.words * (3 * self.width + self.teacher_width)


# The 1B's and the 270M's widths and vocabulary; the same with a vocabulary whose logits fit here; what a step of the demo has.
ON_TPU = Size(4096, 262_144, 640, teacher_width=1152)
ON_CPU = Size(2048, 32_768, 640, teacher_width=1152)
DEMO = Size(1016, 12_724, 640, top_k=64)


def loss_and_gradients(size: Size, *, dense: bool) -> tf.types.experimental.PolymorphicFunction:
    """A compiled function of hidden states, embedding, labels and the teacher's two tensors; gradients for the first two.

    The teacher's tensors are its final states and its embedding, or its best words and their log-probabilities.
    """
    config = DistillationConfig(alpha=1.0, targets="dense" if size.teacher_width else "top_k", top_k=max(size.top_k, 1))

    @tf.function(jit_compile=True)
    def run(hidden: tf.Tensor, embedding: tf.Tensor, labels: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, list]:
        if size.teacher_width:
            targets, token_loss = {"teacher_states": first}, SoftAndHardTargets(config, 1.0, 1.0, teacher_embedding=second)
        else:
            targets, token_loss = {"teacher_ids": first, "teacher_log_probs": second}, SoftAndHardTargets(config, 1.0, 1.0)
        with tf.GradientTape() as tape:
            tape.watch([hidden, embedding])
            total = (_dense_sum if dense else _chunked_sum)(hidden, embedding, {"labels": labels, **targets}, token_loss)
            mean = total / size.tokens
        return mean, tape.gradient(mean, [hidden, embedding])

    return run


def _dense_sum(hidden: tf.Tensor, embedding: tf.Tensor, targets: Targets, token_loss: TokenLoss) -> tf.Tensor:
    return tf.reduce_sum(token_loss(head_logits(hidden, embedding), targets)["loss"])


def _chunked_sum(hidden: tf.Tensor, embedding: tf.Tensor, targets: Targets, token_loss: TokenLoss) -> tf.Tensor:
    return vocabulary_loss(hidden, embedding, targets, tf.ones([hidden.shape[0]]), token_loss)["loss"]


def temporaries_on_tpu(size: Size, *, dense: bool) -> int:
    """Bytes; the student's states and the teacher in bfloat16, the student's weights in float32, as `mixed_bfloat16` trains."""
    specs = [
        tf.TensorSpec([size.tokens, size.width], tf.bfloat16),
        tf.TensorSpec([size.words, size.width], tf.float32),
        tf.TensorSpec([size.tokens], tf.int32),
        tf.TensorSpec([size.tokens, size.teacher_width], tf.bfloat16),
        tf.TensorSpec([size.words, size.teacher_width], tf.bfloat16),
    ]
    return tpu_memory(loss_and_gradients(size, dense=dense), *specs).temporaries


def random_inputs(size: Size) -> Tensors:
    """Float32 inputs of `loss_and_gradients` whose logits spread by about 1."""
    generator = tf.random.Generator.from_seed(0)

    def normal(*shape: int) -> tf.Tensor:
        return generator.normal(shape)

    hidden, embedding = normal(size.tokens, size.width), normal(size.words, size.width) * size.width**-0.5
    labels = generator.uniform([size.tokens], 0, size.words, tf.int32)
    if size.teacher_width:
        return hidden, embedding, labels, normal(size.tokens, size.teacher_width), normal(size.words, size.teacher_width) * size.width**-0.5
    log_probs, ids = tf.math.top_k(tf.nn.log_softmax(3 * normal(size.tokens, size.words)), size.top_k)
    return hidden, embedding, labels, ids, log_probs


def times_on_cpu(size: Size, rounds: int) -> dict[str, float]:
    """Seconds of `dense` and `chunked`, and of a plain matrix product with as many operations (`matmul`)."""
    inputs = random_inputs(size)
    rows, inner, columns = 1024, 1024, 4096
    left, right = tf.random.normal([rows, inner]), tf.random.normal([columns, inner])

    @tf.function(jit_compile=True)
    def product(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        return tf.matmul(left, right, transpose_b=True)

    def variant(dense: bool) -> Callable[[], tf.Tensor]:
        function = functools.partial(loss_and_gradients(size, dense=dense), *inputs)
        return lambda: function()[0]

    seconds = median_seconds({"dense": variant(True), "chunked": variant(False), "matmul": lambda: product(left, right)[0, 0]}, rounds)
    seconds["matmul"] *= size.flops / (2 * rows * inner * columns)
    return seconds


def main() -> None:
    """Measures, prints, and with --json ends with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
    arguments = parser.parse_args()

    dense, chunked = (temporaries_on_tpu(ON_TPU, dense=dense) for dense in (True, False))
    print(
        f"TPU v5e, {ON_TPU.tokens:,} tokens x {ON_TPU.words:,} words: temporaries {dense / 2**20:,.1f} MiB dense, "
        f"{chunked / 2**20:,.1f} MiB in chunks of {default_chunk(ON_TPU.tokens, ON_TPU.words)} (1/{dense / chunked:.0f})"
    )
    figures = {"tpu_temp_bytes_dense": dense, "tpu_temp_bytes_chunked": chunked, "temp_ratio": chunked / dense}
    for prefix, size in (("cpu", ON_CPU), ("demo_cpu", DEMO)):
        seconds = times_on_cpu(size, arguments.rounds)
        figures[f"{prefix}_time_ratio"] = seconds["chunked"] / seconds["dense"]
        figures[f"{prefix}_matmul_fraction"] = seconds["matmul"] / seconds["chunked"]
        print(
            f"CPU, {size.tokens:,} tokens x {size.words:,} words: {seconds['dense']:.3f} s dense, {seconds['chunked']:.3f} s in chunks of "
            f"{default_chunk(size.tokens, size.words)}; the products alone would take {seconds['matmul']:.3f} s"
        )
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
