"""What it costs to watch training: the loop with all of its figures beside the same loop without.

    .venv/bin/python benchmarks/monitoring.py --json

Trains two equal random students (4 layers, hidden 256, 8,192 words, 12 windows of 128 tokens, the teacher's top 32 words made up) by the
pipeline's own `fit`, one with `training.monitor` and a log line every five steps, one without either. They take turns of five steps, so
that a machine's slow minutes fall on both. Two minutes on two quiet cores; 2 GiB of memory.

Prints one JSON object as its last line: `overhead`, the median over the rounds of a turn's time with everything on over that with it off,
minus 1. The sums that both loops keep for their guard are timed apart, and count as something that is on; so do histograms and samples,
which are written every 50 steps (`training.checkpoint_every`) and would fall into a few turns only. What watching costs grows with the
weights, and a step with weights and tokens: with 12 windows there is as much time to a weight as in a step of the demo's student (60 ns).
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

TURN = 5
LIMIT = 0.02
WINDOWS, WINDOW, WORDS, TOP_K = 12, 128, 8192, 32


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each loop")
    return parser.parse_args()


class Turns:
    """Lets one of several threads run at a time, for five steps each."""

    def __init__(self, names: list[str]):
        self._names = list(names)
        self._turn = names[0]
        self._changed = threading.Condition()
        self.seconds: dict[str, list[float]] = {name: [] for name in names}

    def wait(self, name: str) -> None:
        """Until it is this thread's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == name)

    def pass_on(self, name: str) -> None:
        """Ends a turn."""
        with self._changed:
            self._turn = self._names[(self._names.index(name) + 1) % len(self._names)]
            self._changed.notify_all()

    def leave(self, name: str) -> None:
        """Ends a thread's last turn."""
        self.pass_on(name)
        with self._changed:
            self._names.remove(name)

    def batches(self, name: str, batch: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        """The same batch again and again; between two turns the other thread has its own. Steps and log lines are within turns."""
        begun = time.perf_counter()
        for number in range(count):
            if number and number % TURN == 0:
                self.seconds[name].append(time.perf_counter() - begun)
                self.pass_on(name)
                self.wait(name)
                begun = time.perf_counter()
            yield batch


class Batches:
    """What `fit` reads: a dataset as far as it is asked."""

    def __init__(self, turns: Turns, name: str, batch: dict[str, Any]):
        self._turns, self._name, self._batch = turns, name, batch

    def take(self, count: int) -> Iterator[dict[str, Any]]:
        """So many batches."""
        return self._turns.batches(self._name, self._batch, count)


def new_student() -> Any:
    """A random student over a vocabulary that nobody reads."""
    import keras_hub

    from gemma_tf_distill import Gemma

    class NoTokenizer:
        """Training reads ids only."""

        vocabulary_size = WORDS

        def decode(self, ids: Any) -> str:
            return ""

    backbone = keras_hub.models.Gemma3Backbone(
        vocabulary_size=WORDS,
        image_size=None,
        num_layers=4,
        num_query_heads=4,
        num_key_value_heads=1,
        hidden_dim=256,
        intermediate_dim=1024,
        head_dim=64,
        use_query_key_norm=True,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        sliding_window_size=512,
    )
    return Gemma(backbone, NoTokenizer())


def made_up_batch() -> dict[str, Any]:
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    tokens = random.integers(4, WORDS, size=(WINDOWS, WINDOW))
    tokens[:, 0] = 2
    first = random.integers(0, WORDS - TOP_K, size=(WINDOWS, WINDOW - 1, 1))
    log_probs = np.full((WINDOWS, WINDOW - 1, TOP_K), np.log(0.9 / TOP_K))
    return {
        "tokens": tf.constant(tokens, tf.int32),
        "teacher_ids": tf.constant(first + np.arange(TOP_K), tf.int32),
        "teacher_log_probs": tf.constant(log_probs, tf.float32),
    }


def sums_seconds(calls: int = 500) -> float:
    """Of one step's sums, which are kept in both loops; of as many scalars as the watched one has."""
    import tensorflow as tf

    from gemma_tf_distill import DistillationMetrics

    metrics = DistillationMetrics()
    scalars = {f"scalar_{i}": tf.constant(1.0) for i in range(11)}
    metrics.update_metrics(scalars)
    begun = time.perf_counter()
    for _ in range(calls):
        metrics.update_metrics(scalars)
    return (time.perf_counter() - begun) / calls


def snapshot_seconds(batch: dict[str, Any], rounds: int = 5) -> float:
    """Of histograms and samples, once their graph is there."""
    import tensorflow as tf

    from gemma_tf_distill.training.snapshots import Snapshots

    snapshots, seconds = Snapshots(new_student(), batch["tokens"]), []
    with tempfile.TemporaryDirectory() as folder, tf.summary.create_file_writer(folder).as_default(0):
        for _ in range(rounds + 1):
            begun = time.perf_counter()
            snapshots.write()
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def main() -> None:
    from gemma_tf_distill import DistillationConfig, TrainingConfig
    from gemma_tf_distill.training.loop import Run, fit

    arguments = parse_arguments()
    turns, batch = Turns(["on", "off"]), made_up_batch()
    # The first turn of each compiles.
    steps = (arguments.rounds + 1) * TURN + 1
    errors: list[BaseException] = []

    def train(name: str, training: TrainingConfig) -> None:
        turns.wait(name)
        try:
            with tempfile.TemporaryDirectory() as folder:
                fit(
                    new_student(),
                    Run(name=name, learn_from_teacher=True, checkpoints=f"{folder}/checkpoints", tensorboard=folder),
                    lambda skip: Batches(turns, name, batch),
                    training=training,
                    distillation=DistillationConfig(top_k=TOP_K),
                    total_steps=steps,
                )
        except BaseException as error:
            errors.append(error)
        finally:
            turns.leave(name)

    common = {"batch_size": WINDOWS, "checkpoint_every": steps}
    loops = {
        "on": TrainingConfig(log_every=TURN, monitor=True, **common),
        "off": TrainingConfig(log_every=steps, monitor=False, **common),
    }
    threads = [threading.Thread(target=train, args=loop) for loop in loops.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    sums = TURN * sums_seconds()
    on, off = turns.seconds["on"][1:], [seconds - sums for seconds in turns.seconds["off"][1:]]
    snapshots = snapshot_seconds(batch) / TrainingConfig().checkpoint_every * TURN
    overhead = statistics.median((a + snapshots) / b for a, b in zip(on, off, strict=True)) - 1
    if not arguments.json:
        print(f"a turn of {TURN} steps takes {statistics.median(on):.3f} s with everything on, {statistics.median(off):.3f} s with it off")
        print(f"histograms and samples take {snapshots:.3f} s a turn, spread over all")
        print(f"overhead {overhead:+.2%} (limit {LIMIT:.0%})")
    print(json.dumps({"overhead": overhead}))


if __name__ == "__main__":
    main()
