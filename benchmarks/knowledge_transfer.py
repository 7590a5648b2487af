"""What each objective is worth: students against a control that saw the same tokens without the teacher.

    .venv/bin/python benchmarks/knowledge_transfer.py --json

Reads the windows and targets that `gemma-distill run demo` left in its folder (CorpusGen and TeacherScorer; they are made where they
are missing, 5 minutes), and trains with the pipeline's own Distiller function:

* the demo's recipe and its control, with three seeds, at full length: about 11 minutes a seed on two quiet cores;
* each objective alone and all of them together, with one seed on a part of the tokens: about 3 minutes each, and 4 more for each of
  the two kinds of stored targets, which the demo itself does without. Each leaves compiled steps behind: after nine the process had
  13 GB. With less memory run some at a time (`--only`).

Held-out figures are means over tokens: `nll` (nats), `kl` to the teacher (nats; top 64 words and the tail), `top1` agreement.
`gap_closed` is the share of the distance from the control's NLL to the teacher's that the student went. The last line is one JSON
object: {"seeds": [{"nll_student", "nll_control", "nll_teacher", "kl", "top1", "gap_closed"}], "objectives": {NAME: {...}}}.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from demo_artifacts import artifacts

from gemma_tf_distill.monitoring.knowledge_transfer import gap_closed

# For each objective, what it changes in a recipe that learns from the hard labels and the teacher's draws, half and half.
ALONE = ["distillation.alpha=1.0", "distillation.targets=top_k", "distillation.hidden_states.weight=0"]
OBJECTIVES: dict[str, list[str]] = {
    "soft targets, top k": ALONE,
    "soft targets, sampled": [*ALONE, "distillation.targets=sampled"],
    "soft targets, dense": [*ALONE, "distillation.targets=dense"],
    "reverse KL": [*ALONE, "distillation.divergence=reverse_kl"],
    "Jensen-Shannon": [*ALONE, "distillation.divergence=jensen_shannon"],
    "total variation": [*ALONE, "distillation.divergence=total_variation"],
    "soft and hard targets": [*ALONE, "distillation.alpha=0.5"],
    "hidden states": [*ALONE, "distillation.alpha=0", "distillation.hidden_states.weight=20"],
    "attention maps": [*ALONE, "distillation.alpha=0", "distillation.attention_maps.weight=1"],
    "on-policy": [*ALONE, "distillation.on_policy.fraction=0.25"],
    "layer dropout": [*ALONE, "training.layer_dropout=0.1"],
    "together": ["distillation.attention_maps.weight=0.1", "distillation.on_policy.fraction=0.1"],
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/demo"), help="the demo's folder")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="seeds of the recipe itself")
    parser.add_argument("--epochs", type=float, default=0.25, help="passes over the windows for each objective")
    parser.add_argument("--only", nargs="*", choices=sorted(OBJECTIVES), default=sorted(OBJECTIVES), help="objectives")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the recipe")
    return parser.parse_args()


def share_initial_student() -> None:
    """Makes the Distiller's function begin with the same student, where seed and config say so, without cutting it anew (80 seconds)."""
    from components.distiller import distil

    build_student, built = distil.build_student, {}

    def shared(config: Any, *arguments: Any, seed: int, **others: Any) -> Any:
        if (config, seed) not in built:
            model = build_student(config, *arguments, seed=seed, **others)
            built[config, seed] = model, model.backbone.get_weights()
        model, weights = built[config, seed]
        model.backbone.set_weights(weights)
        return model

    distil.build_student = shared


def trained(config: Any, inputs: dict[str, str]) -> dict[str, float]:
    """Trains as the pipeline's Distiller does; what it measured."""
    from components.distiller.distil import distil
    from components.distiller.settings import distiller_config
    from gemma_tf_distill.data.fingerprint import corpus_fingerprint
    from gemma_tf_distill.gemma.teacher import teacher_fingerprint

    settings = distiller_config(config, corpus_fingerprint(config.corpus), teacher_fingerprint(config.teacher.source))
    folder = tempfile.mkdtemp()
    try:
        uris = {name: os.path.join(folder, name, "1") for name in ("student_uri", "tensorboard_uri")}
        distil(**inputs, **uris, config=settings, source_digest="")
        with open(os.path.join(uris["student_uri"], "metrics.json"), encoding="utf-8") as file:
            metrics = json.load(file)
    finally:
        shutil.rmtree(folder)
    found = {"nll_teacher": metrics["teacher_heldout_nll"], "kl": metrics["kl_to_teacher"], "top1": metrics["top1_agreement"]}
    found["nll_student"] = metrics["heldout_nll"]
    if metrics["heldout_nll_control"] is not None:
        found["nll_control"] = metrics["heldout_nll_control"]
        found["gap_closed"] = gap_closed(found["nll_student"], found["nll_control"], found["nll_teacher"])
    return found


def show(name: str, found: dict[str, float]) -> None:
    print(f"{name:24}", " ".join(f"{key} {value:.4f}" for key, value in sorted(found.items())), flush=True)


def main() -> None:
    from gemma_tf_distill import load_config

    arguments = parse_arguments()

    def config(*overrides: str) -> Any:
        return load_config("demo", [*arguments.set, *overrides])

    def run(name: str, overrides: Sequence[str]) -> dict[str, float]:
        wanted = config(*overrides)
        nodes = artifacts(wanted, arguments.output, ["CorpusGen", "TeacherScorer"])
        uris = {"examples_uri": nodes["TeacherScorer"]["scored_examples"], "tokenizer_uri": nodes["CorpusGen"]["tokenizer"]}
        found = trained(wanted, uris)
        show(name, found)
        return found

    share_initial_student()
    seeds = [run(f"demo, seed {seed}", [f"seed={seed}"]) for seed in arguments.seeds]
    objectives: dict[str, dict[str, float]] = {}
    short = [f"training.epochs={arguments.epochs}", "training.control=false"]
    control: dict[str, float] = {}
    for name in [name for name in OBJECTIVES if name in arguments.only]:
        if not control:
            first = run("control and recipe, short", [short[0], "training.control=true"])
            control = {"nll_control": first["nll_control"]}
            objectives["the demo's recipe"] = first
        found = run(name, [*short, *OBJECTIVES[name]])
        found["nll_control"] = control["nll_control"]
        found["gap_closed"] = gap_closed(found["nll_student"], found["nll_control"], found["nll_teacher"])
        objectives[name] = found
    print(json.dumps({"seeds": seeds, "objectives": objectives}))


if __name__ == "__main__":
    sys.exit(main())
