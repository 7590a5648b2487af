"""The table at the end of a run."""

import copy

from gemma_tf_distill.monitoring.run_report import render_outcome

REPORT = {
    "teacher": {"source": "gguf:package", "parameters": 268_098_176, "heldout_nll": 2.7891},
    "student": {
        "parameters": 37_000_000,
        "vocabulary": 7812,
        "layers": 6,
        "heldout_nll_initial": 15.6,
        "heldout_nll": 3.497,
        "heldout_nll_control": 3.825,
        "kl_to_teacher": 0.71,
        "top1_agreement": 0.46,
        "heldout_nll_float": None,
        "heldout_nll_ptq": None,
        "heldout_nll_quantized": None,
    },
    "tokens": {"train": 210_048, "heldout": 15_900},
    "artifacts": [
        {"path": "/o/pushed/1/saved_model/saved_model.pb", "format": "saved_model", "bytes": 1000, "sha256": "0"},
        {"path": "/o/pushed/1/saved_model/variables/variables.data", "format": "saved_model", "bytes": 148_000_000, "sha256": "1"},
        {"path": "/o/pushed/1/model.tflite", "format": "tflite", "bytes": 149_000_000, "sha256": "2"},
    ],
    "seconds": {"CorpusGen": 30.0},
    "blessed": True,
    "pushed": "/o/pushed/1",
}
SAMPLES = [{"prompt": "Returns the", "teacher": " mean of x.\n\nsecond", "student": " value."}]


def test_it_names_every_model_file_and_sample():
    text = render_outcome(REPORT, [], SAMPLES)
    lines = text.splitlines()
    assert any(line.split() == ["teacher", "gguf:package", "268,098,176", "2.789"] for line in lines)
    assert any(line.split() == ["student", "37,000,000", "3.497", "0.710", "46.0", "%"] for line in lines)
    assert any("trained without the teacher (control)" in line and line.endswith("3.825") for line in lines)
    assert any("before training" in line and "15.600" in line for line in lines)
    assert any(line.split() == ["saved_model", "148,001,000"] for line in lines)
    assert any(line.split() == ["tflite", "149,000,000"] for line in lines)
    assert "210,048 tokens" in text
    assert "15,900 held-out tokens" in text
    assert "blessed, pushed to /o/pushed/1" in text
    assert text.index("teacher   mean of x.") < text.index("student   value.")


def test_a_quantised_student_has_a_row_for_each_stage():
    report = copy.deepcopy(REPORT)
    assert "rounded" not in render_outcome(report, [], [])
    report["student"] |= {
        "quantization": {"scheme": "int4_block32", "overrides": {}},
        "heldout_nll_float": 3.4971,
        "heldout_nll_ptq": 4.1232,
        "heldout_nll_quantized": 3.5273,
    }
    lines = render_outcome(report, [], []).splitlines()
    assert any("in float" in line and line.endswith("3.497") for line in lines)
    assert any("rounded to int4_block32 without training" in line and line.endswith("4.123") for line in lines)
    assert any("trained in int4_block32" in line and line.endswith("3.527") for line in lines)


def test_a_model_that_is_not_blessed_says_why():
    report = {**copy.deepcopy(REPORT), "blessed": False, "pushed": None}
    text = render_outcome(report, ["heldout_nll is 9.0000, gates.max_heldout_nll asks for at most 4"], [])
    assert "not blessed, and so not pushed:\n  heldout_nll is 9.0000, gates.max_heldout_nll asks for at most 4" in text
    assert "pushed to" not in text


def test_figures_that_are_missing_are_dashes():
    report = copy.deepcopy(REPORT)
    report["student"]["heldout_nll_control"] = None
    report["student"]["top1_agreement"] = None
    text = render_outcome(report, [], [])
    assert next(line for line in text.splitlines() if "(control)" in line).endswith("–")
    assert next(line for line in text.splitlines() if line.startswith("student")).endswith("–")
