"""A run as it looks at its end, quantised and with everything recorded; tests take away or change what they are about."""

import math
import pathlib

import pytest

from gemma_tf_distill.config import load_config
from gemma_tf_distill.report.content import Artifact, Content, Curve, Data, DocumentStatistics, Layers, Node, SplitStatistics, Validation
from gemma_tf_distill.report.distances import Distance
from gemma_tf_distill.report.gates import gate_results
from gemma_tf_distill.report.runs import FileFigures, RunFigures

LAYERS = 18


def gate(name: str, asked: float, got: float | None, *, slice: str = "overall", metric: str = "", held: bool = True, **changes) -> dict:
    """A gate as `gates.json` has it."""
    metric = metric or name[4:]
    words = f"{metric} is {got}, gates.{name} asks for {asked}"
    return {
        **{"gate": name, "slice": slice, "metric": metric, "asked": asked, "got": got, "low": None, "high": None, "held": held},
        **{"words": words, **changes},
    }


GATES = [
    gate("tokens", 1.0, 14_656.0, metric="tokens"),
    gate("max_perplexity_vs_teacher", 1.05, 0.978, low=0.951, high=1.004),
    gate("max_kl_to_teacher", 1.0, 0.766, low=0.741, high=0.79),
    gate("max_ece", 0.08, 0.0312, low=0.0281, high=0.0402),
    gate("min_top1_agreement", 0.5, 0.571, low=0.559, high=0.583),
    gate("max_perplexity_vs_teacher", 1.2, 1.013, slice="source=numpy", low=0.98, high=1.05),
    gate("max_regression_vs_baseline", 0.02, -0.0043, metric="heldout_nll", low=-0.012, high=0.003, words="heldout_nll is -0.4%"),
    gate("parity", 0.0, 0.0, slice="files", metric="parity_failures", words="every file is what the student is"),
    gate("max_bytes", 30_000_000.0, 24_100_000.0, slice="tflite"),
    gate("max_repetition_rate", 0.5, 0.21, slice="tflite"),
]
REPORT = {
    "teacher": {"source": "gguf:package", "parameters": 268_098_176, "heldout_nll": 3.1782, "bits_per_byte": 1.028},
    "student": {
        "parameters": 41_300_000,
        "vocabulary": 12_613,
        "layers": LAYERS,
        "heldout_nll_initial": 4.361,
        "heldout_nll": 3.1564,
        "heldout_nll_control": 3.3302,
        "bits_per_byte": 1.021,
        "kl_to_teacher": 0.766,
        "top1_agreement": 0.571,
        "top5_agreement": 0.853,
        "ece": 0.0312,
        "quantization": {"scheme": "int4_block32", "overrides": {}},
        "heldout_nll_float": 3.1889,
        "heldout_nll_ptq": 3.3341,
        "heldout_nll_quantized": 3.1564,
    },
    "tokens": {"train": 200_699, "heldout": 14_656},
    "artifacts": [
        {"path": "/o/demo/pushed/1795764746/model.tflite", "format": "tflite", "bytes": 24_100_000, "sha256": "2"},
        {"path": "/o/demo/pushed/1795764746/saved_model/saved_model.pb", "format": "saved_model", "bytes": 44_800_000, "sha256": "0"},
    ],
    "seconds": {"CorpusGen": 28.1, "Distiller": 700.2, "Exporter": 82.3},
    "blessed": True,
    "gates": GATES,
    "failures": [],
    "pushed": "/o/demo/pushed/1795764746",
}
PARITY = [
    {
        "format": name,
        "weights_equal_fraction": 1.0,
        "tokens": 4096,
        "top1_agreement": 0.9985,
        "nll": 3.1601,
        "prefill_tokens_per_second": 1962.0,
        "decode_tokens_per_second": speed,
        "peak_bytes": 337_170_432,
        "completions": {"Returns the": text},
    }
    for name, speed, text in (("saved_model", 140.1, " value of the array."), ("tflite", 341.9, " mean of the array."))
]
PROMPT = "Returns the"


def other_run(name: str, nll: float, size: int, speed: float, **changes) -> RunFigures:
    return RunFigures(
        **{
            "name": name,
            "path": pathlib.Path("/o") / name,
            "blessed": True,
            "teacher": "gguf:package",
            "words": 12_613,
            "teacher_nll": 3.1782,
            "nll": nll,
            "files": [FileFigures(format="tflite", bytes=size, decode_tokens_per_second=speed)],
            **changes,
        }
    )


def whole_content(**changes) -> Content:
    """Everything that a page can show; `changes` are fields of `Content`."""
    config = load_config("demo", ["quantization.scheme=int4_block32"]).to_dict()
    this_run = other_run(
        "demo",
        3.1564,
        24_100_000,
        341.9,
        version="1795764746",
        parameters=41_300_000,
        heldout_tokens=14_656,
        scheme="int4_block32",
        control_nll=3.3302,
        ptq_nll=3.3341,
        float_nll=3.1889,
        kl=0.766,
        top1_agreement=0.571,
        bits_per_byte=1.021,
        teacher_bits_per_byte=1.028,
    )
    overall = {
        "tokens": 14656.0,
        "heldout_nll": 3.1564,
        "perplexity": 23.486,
        "bits_per_byte": 1.021,
        "teacher_heldout_nll": 3.1782,
        "teacher_perplexity": 24.003,
        "teacher_bits_per_byte": 1.028,
        "perplexity_vs_teacher": 0.978,
        "kl_to_teacher": 0.766,
        "top1_agreement": 0.571,
        "top5_agreement": 0.853,
        "ece": 0.0312,
        "teacher_ece": 0.0417,
    }
    overall |= {name + end: value * factor for name, value in overall.items() for end, factor in (("_low", 0.97), ("_high", 1.04))}
    steps = list(range(10, 810, 10))

    def falling(run: str, name: str, start: float, end: float) -> Curve:
        values = [end + (start - end) * math.exp(-step / 120) * (1 + 0.05 * math.sin(step)) for step in steps]
        return Curve(run=run, name=name, steps=steps, values=values)

    alike = [[math.exp(-(((mine - theirs) / 4) ** 2)) * 0.96 for theirs in range(LAYERS)] for mine in range(LAYERS)]
    digest = "d1c88218feaa8cee216abe79c8d1132adebbec58e04b7"
    names = ("CorpusGen", "StatisticsGen", "TeacherScorer", "Distiller", "Quantizer", "Exporter", "Evaluator", "Pusher")
    values = {
        "created": "2026-11-27 05:54",
        "report": REPORT,
        "config": config,
        "config_digest": "5a1f" * 16,
        "command": "gemma-distill run demo \\\n  --set quantization.scheme=int4_block32",
        "command_note": "The recipe demo with what this run changed of it.",
        "gates": gate_results(GATES),
        "baseline": {"heldout_nll": 3.1701, "teacher_heldout_nll": 3.1782, "kl_to_teacher": 0.781, "top1_agreement": 0.566},
        "slices": {
            "overall": overall,
            **{f"source={name}": {**overall, "tokens": 3000.0 - 500 * place} for place, name in enumerate(("numpy", "scipy", "keras"))},
        },
        "curves": [
            falling("student", "distill/loss", 9.5, 1.9),
            falling("control", "distill/loss", 9.6, 3.2),
            falling("quantized", "distill/loss", 2.4, 1.8),
            falling("student", "distill/hard_loss", 9.5, 3.1),
            falling("control", "distill/hard_loss", 9.6, 3.2),
            falling("student", "distill/soft_loss", 6.5, 0.7),
            falling("student", "train/gradient_norm", 40, 1.2),
        ],
        "this_run": this_run,
        "other_runs": [
            other_run("demo-float", 3.1889, 166_000_000, 210.0),
            other_run("int8", 3.1802, 45_200_000, 290.0),
            other_run("tiny", 3.62, 9_800_000, 612.0),
            other_run("too-small", 4.9, 6_100_000, 720.0, blessed=False),
            other_run("demo", 3.1701, 24_100_000, 338.0, path=pathlib.Path("/o/demo/pushed/1795700000"), version="1795700000"),
        ],
        "parity": PARITY,
        "repetition": {"tflite": 0.21, "saved_model": 0.207, "teacher": 0.135},
        "layers": Layers(
            mapping=[(layer, layer) for layer in range(LAYERS)],
            mapping_name="the teacher’s layer that each of the student’s began as",
            teacher_layers=LAYERS,
            hidden_states=alike,
            attention_maps=alike,
            quantization_error={
                "embedding": 0.081,
                **{f"layers.{layer}.{kind}": 0.06 + layer / 400 for layer in range(LAYERS) for kind in ("query", "key", "value", "output")},
            },
        ),
        "samples": [
            {"prompt": PROMPT, "teacher": " sum of the values.\n\nThe sum is that of all.", "student": " value of the array."},
            {"prompt": "Parameters\n----------\n", "teacher": "x : array", "student": "values : array of numbers"},
        ],
        "nodes": [
            Node(name=name, seconds=10.0 + 90 * (name == "Distiller"), cached=name == "CorpusGen", peak_bytes=4 * 10**9) for name in names
        ],
        "artifacts": [
            Artifact(
                id=place + 1,
                node=name,
                output="examples",
                kind="Examples",
                uri=f"pipeline/{name}/examples/{place + 1}",
                inputs=[place] if place else [],
                fingerprints={"source_digest": digest, "corpus_fingerprint": "c0" * 20, "teacher_fingerprint": "7e" * 20},
            )
            for place, name in enumerate(names)
        ],
        "data": Data(
            figures={
                "read": 31725,
                "short": 16165,
                "duplicate": 295,
                "train": 13797,
                "heldout": 1468,
                "train_kept": 1490,
                "heldout_kept": 107,
                "train_windows": 1610,
                "train_tokens": 200_699,
                "heldout_windows": 117,
                "heldout_tokens": 14_656,
                "words": 12_613,
            },
            splits=[
                SplitStatistics(
                    split="train",
                    examples=1610,
                    length={"min": 12, "mean": 125, "median": 128, "max": 128},
                    sources=[("numpy", 800), ("scipy", 500)],
                    source_count=41,
                )
            ],
            validation=Validation(
                documents=[
                    DocumentStatistics(
                        split=split,
                        documents=documents,
                        tokens=tokens,
                        means={
                            "tokens": tokens / documents,
                            "tokens_per_character": rate,
                            "byte_token_fraction": 0.00123,
                            "unknown_token_fraction": 0.0,
                        },
                        sources=[("numpy", 40, 9_000), ("scipy", 30, 4_000)] if split != "serving" else [],
                        source_count=41 if split != "serving" else 0,
                    )
                    for split, documents, tokens, rate in (
                        ("train", 1490, 199_209, 0.282),
                        ("heldout", 107, 14_549, 0.279),
                        ("serving", 50, 612, 0.401),
                    )
                ],
                distances=[
                    Distance("tokens_per_character", "held-out documents", "Jensen-Shannon divergence", 0.1295, 0.2),
                    Distance("source", "held-out documents", "infinity norm", 0.1518, None),
                    Distance("tokens_per_character", "serving prompts", "Jensen-Shannon divergence", 0.4321, 0.3),
                    Distance("characters", "serving prompts", "Jensen-Shannon divergence", math.nan, None),
                ],
                anomalies=["tokens_per_character of serving prompts is 0.4321 from the training documents'"],
            ),
        ),
        "packages": {"tensorflow": "2.21.0", "keras": "3.15.1"},
    }
    return Content(**{**values, **changes})


@pytest.fixture
def content() -> Content:
    return whole_content()


@pytest.fixture
def bare() -> Content:
    """No more than a run of an earlier version left: no curves, layers, samples, parity, nodes, artifacts or statistics."""
    config = load_config("quick").to_dict()
    report = {
        "teacher": {"source": "gguf:package", "parameters": None, "heldout_nll": None},
        "student": {"heldout_nll_initial": None},
        "artifacts": [],
        "blessed": False,
        "pushed": None,
    }
    return Content(
        created="",
        report=report,
        config=config,
        config_digest="",
        command="gemma-distill run quick",
        this_run=RunFigures(name="quick", path=pathlib.Path("/o/quick")),
    )
