"""The model card says what is known of a version, and nothing else."""

import re

import pytest
import yaml

from gemma_tf_distill.config import config_from_dict
from gemma_tf_distill.export.model_card import NOTICE, model_card

TRAINING = {
    "tokens": {"train": 200_699, "heldout": 14_656},
    "vocabulary": 12_613,
    "layers": 18,
    "parameters": 41_300_000,
    "heldout_nll_control": 3.33,
    "heldout_nll_initial": 4.361,
    "heldout_nll_float": 3.189,
}
EVALUATION = {"teacher_heldout_nll": 3.178, "heldout_nll": 3.156, "kl_to_teacher": 0.8, "top1_agreement": 0.56}


def manifest(teacher: str = "gguf:package", scheme: str | None = None, **changes) -> dict:
    config = config_from_dict({"name": "mine", "teacher": {"source": teacher}, "quantization": {"scheme": scheme}}).to_dict()
    return {
        "config": config,
        "metrics": {"evaluation": EVALUATION, "training": TRAINING},
        "parity": {"files": [{"format": "tflite", "top1_agreement": 0.9991, "nll": 3.157, "decode_tokens_per_second": 401.2}]},
        "parents": {"teacher": teacher},
        "files": [
            {"format": "saved_model", "bytes": 1_000_000},
            {"format": "saved_model", "bytes": 500_000},
            {"format": "tflite", "bytes": 24_000_000},
            {"format": "sentencepiece", "bytes": 200_000},
        ],
    } | changes


def header(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_distilled_student():
    card = model_card(manifest(scheme="int4_block32"))
    assert header(card) == {
        "license": "gemma",
        "license_link": "https://ai.google.dev/gemma/terms",
        "pipeline_tag": "text-generation",
        "base_model": "google/gemma-3-270m",
        "tags": ["gemma3", "distillation"],
    }
    assert "distilled from Gemma 3 270M (`gguf:package`), in numbers of `int4_block32`." in card
    assert "200,699 tokens of `docstrings:` in windows of 128" in card
    assert "| this model, as exported | 3.156 | 0.800 | 56.0% |" in card
    assert "| the same student in float | 3.189 |  |  |" in card
    assert '| saved_model | 1.5 |  |  |  | `gemma-distill generate saved_model "Returns the"` |' in card
    assert '| tflite | 24.0 | 99.91% | 3.157 | 401 | `gemma-distill generate model.tflite "Returns the"` |' in card
    assert NOTICE.strip() in card


def test_what_is_not_known_is_not_said():
    card = model_card(manifest(metrics={}, parity=None))
    assert "exported as it is" in card
    assert "Held-out" not in card and "Trained on" not in card and "Every file was run" not in card
    assert "It is Gemma, in other formats" in card


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("gguf:package", "google/gemma-3-270m"),
        ("preset:gemma3_1b", "google/gemma-3-1b-pt"),
        ("preset:gemma3_instruct_1b", "google/gemma-3-1b-it"),
        ("preset:gemma3_270m", "google/gemma-3-270m"),
        ("preset:gemma3_instruct_4b_text", "google/gemma-3-4b-it"),
        ("/models/my-gemma", None),
    ],
)
def test_the_base_model_is_named_where_it_is_known(source, name):
    assert header(model_card(manifest(source))).get("base_model") == name


def test_every_table_is_whole():
    for block in re.findall(r"(?:^\|.*\n)+", model_card(manifest()), re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
