"""What integers cost: held-out figures in float, rounded after training, and trained for them.

    .venv/bin/python benchmarks/quantization.py --json

Models: the student that `gemma-distill run demo` left in its folder, and the demo's teacher, the untouched Gemma 3 270M with the demo's
words. Each is rounded to a scheme's lattice, and trained for it as the pipeline's Quantizer does, on the demo's windows and with the
demo's section `distillation`: from the untouched 270M's probabilities and layers, and half from the text itself. What enters the
products is dynamic int8 in both. All matrices are quantised, the embedding included.

Figures of a scheme are nats a held-out token: `nll_float`, `nll_ptq` (rounded), `nll_qat` (trained); `recovered` is the share of what
rounding lost that training won back, also by what else it learned of text and teacher on the way; `lattice_exact` says that every
trained weight is one of its row's or block's numbers, to the bit. `step_time_ratio` is a step of quantised training over the same step
in float, the first model's, taken in turn. `size_table`: GB of larger Gemma 3 models, from their shapes; beside table 3 of the Gemma 3
report in the lines before. About an hour on two cores, most of it for the 270M.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

from demo_artifacts import artifacts

MODELS = ("student", "270m")
SCHEMES = ("int4_block32", "int4_channel")
# What differs from the demo's config: a larger model takes a lower rate, and the coarsest lattice smaller steps.
CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("student", "int4_channel"): {"batch_size": 4, "learning_rate": 1.5e-4},
    ("270m", "int4_channel"): {"learning_rate": 1e-4},
    ("270m", "int4_block32"): {"learning_rate": 5e-5},
}
WARM_UP, ROUNDS = 1, 5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/demo"), help="the demo's folder")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS), help="what is quantised")
    parser.add_argument("--schemes", nargs="*", default=list(SCHEMES), help="as in the config's quantization.scheme")
    parser.add_argument("--tokens", type=int, default=200_000, help="training tokens for each model and scheme")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the demo's config")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    bench = Bench(arguments)
    models: dict[str, dict[str, Any]] = {}
    for name in arguments.models:
        models[name] = {}
        for scheme in arguments.schemes:
            models[name][scheme] = found = bench.quantised(name, scheme)
            print(f"{name} {scheme}: {found}", flush=True)
    from gemma_tf_distill.quantization.sizes import report_comparison, size_table

    for model, formats in report_comparison().items():
        for name, found in formats.items():
            print(
                f"Gemma 3 {model} {name:12} {found.text:6.2f} GB; in table 3 of the Gemma 3 report {found.reported:5.1f}, "
                f"{found.counted} {found.nearest:5.2f} ({found.difference:+.1%})"
            )
    ratio = bench.step_time_ratio(arguments.models[0], arguments.schemes[0]) if models else None
    print(json.dumps({"models": models, "step_time_ratio": ratio, "size_table": size_table()}))


class Bench:
    """The demo's windows, models and settings."""

    def __init__(self, arguments: argparse.Namespace):
        from components.distiller.inputs import TrainingInputs
        from components.distiller.settings import distiller_config
        from gemma_tf_distill import load_config
        from gemma_tf_distill.data.fingerprint import corpus_fingerprint
        from gemma_tf_distill.gemma.teacher import teacher_fingerprint

        self._config = config = load_config("demo", arguments.set)
        self._tokens = arguments.tokens
        nodes = artifacts(config, arguments.output, ["CorpusGen", "TeacherScorer", "Distiller"])
        self._student = f"{nodes['Distiller']['student']}/student"
        settings = json.loads(distiller_config(config, corpus_fingerprint(config.corpus), teacher_fingerprint(config.teacher.source)))
        examples, tokenizer = nodes["TeacherScorer"]["scored_examples"], nodes["CorpusGen"]["tokenizer"]
        self._inputs = TrainingInputs.open(examples, tokenizer, settings, config.training, config.distillation)

    def _model(self, name: str) -> Any:
        from gemma_tf_distill import load_teacher
        from gemma_tf_distill.gemma.model import Gemma

        if name == "student":
            return Gemma.load(self._student)
        return load_teacher(self._config.teacher.source, vocabulary=self._inputs.vocabulary)

    def _section(self, name: str, scheme: str) -> Any:
        section, epochs = self._config.quantization, self._tokens / (self._inputs.store.windows * self._config.corpus.window)
        return dataclasses.replace(section, scheme=scheme, epochs=epochs, **CHANGES.get((name, scheme), {}))

    def quantised(self, name: str, scheme: str) -> dict[str, Any]:
        """Figures of one model in one scheme."""
        from gemma_tf_distill.gemma.student import kept_layers
        from gemma_tf_distill.training.heldout import HeldoutEvaluation
        from gemma_tf_distill.training.loop import Run
        from gemma_tf_distill.training.quantized import fit_quantized

        model, section = self._model(name), self._section(name, scheme)
        teacher = self._model("270m") if section.targets == "teacher" else None
        inputs = dataclasses.replace(self._inputs, batch_size=section.windows_a_step(self._inputs.batch_size))
        in_float = HeldoutEvaluation(model)(inputs.heldout)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            rounded, trained = fit_quantized(
                model,
                Run(name=f"{name} {scheme}", learn_from_teacher=True, checkpoints=f"{folder}/checkpoints", tensorboard=f"{folder}/events"),
                inputs.batches,
                inputs.heldout,
                training=self._config.training,
                distillation=self._config.distillation,
                quantization=section,
                windows=inputs.store.windows,
                teacher=teacher,
                kept_layers=None if teacher is None else kept_layers(self._config.student, teacher.backbone.num_layers),
                seed=self._config.seed,
            )
            seconds = time.monotonic() - begun
        return {
            "nll_float": in_float.nll,
            "nll_ptq": rounded.nll,
            "nll_qat": trained.nll,
            "recovered": recovered(in_float.nll, rounded.nll, trained.nll),
            "lattice_exact": lattice_exact(model, section),
            "kl_float": in_float.kl_to_teacher,
            "kl_ptq": rounded.kl_to_teacher,
            "kl_qat": trained.kl_to_teacher,
            "top1_float": in_float.top1_agreement,
            "top1_ptq": rounded.top1_agreement,
            "top1_qat": trained.top1_agreement,
            "tokens_per_second": self._tokens / seconds,
        }

    def step_time_ratio(self, name: str, scheme: str) -> float:
        """Median over rounds of a quantised step's time over the float step's; both learn the float model's whole distribution."""
        import keras

        from gemma_tf_distill import DistillationConfig, DistillationTrainer
        from gemma_tf_distill.quantization.apply import ModelQuantization

        teacher, batch = self._model(name), next(iter(self._inputs.batches(0)))
        steps = []
        for section in (None, self._section(name, scheme)):
            student = self._model(name)
            quantization = ModelQuantization(student, section) if section else None
            trainer = DistillationTrainer(
                self._config.training, DistillationConfig(alpha=1.0, targets="dense"), total_steps=100, quantization=quantization
            )
            optimizer = keras.optimizers.AdamW(1e-5)

            def step(trainer: Any = trainer, student: Any = student, optimizer: Any = optimizer) -> float:
                begun = time.perf_counter()
                float(trainer.train_step(batch, teacher, student, optimizer)["loss"])
                return time.perf_counter() - begun

            steps.append(step)
        ratios = []
        for _ in range(WARM_UP + ROUNDS):
            in_float, quantised = (step() for step in steps)
            ratios.append(quantised / in_float)
        return statistics.median(ratios[WARM_UP:])


def recovered(in_float: float, rounded: float, trained: float) -> float | None:
    """The share of what rounding lost that training won back; none where rounding lost less than 0.002 nats, the noise of the split."""
    return (rounded - trained) / (rounded - in_float) if rounded - in_float > 0.002 else None


def lattice_exact(model: Any, section: Any) -> bool:
    """Whether codes times scales, in the numbers that a file would hold, are the model's own weights to the bit."""
    import numpy as np

    from gemma_tf_distill.quantization.apply import quantized_weights
    from gemma_tf_distill.quantization.layout import matmul_weights

    weights = matmul_weights(model.backbone)
    for name, stored in quantized_weights(model, section).items():
        rows = np.asarray(weights[name].rows(weights[name].variable.value))
        blocks = rows.reshape(len(rows), stored.scales.shape[1], -1)
        lattice = stored.codes.astype(np.float32).reshape(blocks.shape) * stored.scales[..., None]
        if not np.array_equal(lattice, blocks):
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
