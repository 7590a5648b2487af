"""The share of a training step's time in the demo that the loop waits for its next batch.

    .venv/bin/python benchmarks/input_pipeline.py --json

Begins with the windows that `gemma-distill run demo` left in its folder (CorpusGen and TeacherScorer; they are made where they are
missing), and takes 24 steps of the demo's recipe in the pipeline's own loop: the real 270M as the live teacher, the student of 18 layers,
8 windows of 128 tokens. 14 minutes on two busy cores, with the making of windows; 6 GiB of memory. The student is cut by fewer tokens
than the demo's, which changes its weights and not what a step costs.

Prints one JSON object as its last line: `wait_fraction`, the scalar `data/wait_fraction` of the last 20 steps, and `tokens_per_second` of
the steps since the last log line.
"""

import argparse
import json
import os
import pathlib
import tempfile
from typing import Any

from demo_artifacts import artifacts

STEPS = 24


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/demo"), help="the demo's folder")
    return parser.parse_args()


def train(config: Any, examples_uri: str, tokenizer_uri: str, folder: str) -> None:
    """The demo's first steps, without the control and held-out figures."""
    from components.distiller.component import distiller_config
    from components.distiller.inputs import TrainingInputs
    from gemma_tf_distill import build_student, load_teacher
    from gemma_tf_distill.data.fingerprint import corpus_fingerprint
    from gemma_tf_distill.data.first_windows import first_windows
    from gemma_tf_distill.gemma.student import kept_layers
    from gemma_tf_distill.gemma.teacher import teacher_fingerprint
    from gemma_tf_distill.gemma.vocabulary import full_vocabulary
    from gemma_tf_distill.training.loop import Run, fit

    settings = json.loads(distiller_config(config, corpus_fingerprint(config.corpus), teacher_fingerprint(config.teacher.source)))
    inputs = TrainingInputs.open(examples_uri, tokenizer_uri, settings, config.training, config.distillation)
    teacher = load_teacher(config.teacher.source, config.teacher.dtype, inputs.vocabulary)
    calibration = first_windows(inputs.files, config.corpus.window, config.student.cut.calibration_tokens)
    words = full_vocabulary(teacher.tokenizer)
    student = build_student(config.student, teacher, words, seed=config.seed, dtype=config.training.precision, calibration=calibration)
    fit(
        student,
        Run(name="student", learn_from_teacher=True, checkpoints=os.path.join(folder, "checkpoints"), tensorboard=folder),
        inputs.batches,
        training=config.training,
        distillation=config.distillation,
        total_steps=STEPS,
        teacher=teacher,
        kept_layers=kept_layers(config.student, teacher.backbone.num_layers),
        seed=config.seed,
    )


def last_scalar(folder: str, name: str) -> float:
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder, size_guidance={"tensors": 0})
    events.Reload()
    return float(tf.make_ndarray(events.Tensors(name)[-1].tensor_proto))


def main() -> None:
    from gemma_tf_distill import load_config

    arguments = parse_arguments()
    config = load_config("demo", ["student.cut.calibration_tokens=1024"])
    nodes = artifacts(config, arguments.output, ["CorpusGen", "TeacherScorer"])
    with tempfile.TemporaryDirectory() as folder:
        train(config, nodes["TeacherScorer"]["scored_examples"], nodes["CorpusGen"]["tokenizer"], folder)
        figures = {
            "wait_fraction": last_scalar(folder, "data/wait_fraction"),
            "tokens_per_second": last_scalar(folder, "data/tokens_per_second"),
        }
    if not arguments.json:
        print(f"the loop waits for data {figures['wait_fraction']:.2%} of its time")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
