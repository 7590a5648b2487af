"""Gates as the page shows them: what was asked of what, what the model reached, why it fails."""

import dataclasses
from xml.etree import ElementTree

import pytest

from components.quality_gate.eval_config import GATED_METRICS
from gemma_tf_distill.report.gate_table import _NAMES, gates
from gemma_tf_distill.report.gates import GateResult, gate_results
from tests.report.conftest import GATES, gate


def rows(content, records) -> list[list[str]]:
    """The texts of the table's cells."""
    table = gates(dataclasses.replace(content, gates=gate_results(records)))
    root = ElementTree.fromstring(f"<div>{table}</div>")
    return [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in root.findall(".//tbody/tr")]


def test_a_gate_is_what_the_evaluator_wrote():
    results = gate_results(GATES)
    assert [dataclasses.asdict(result) for result in results] == GATES
    # Also where another version wrote more, or had no intervals.
    assert gate_results([{**GATES[0], "new": 1}]) == results[:1]
    assert gate_results([{key: value for key, value in GATES[0].items() if key not in ("low", "high")}]) == results[:1]


def test_each_gate_has_a_row_that_names_its_slice_or_format(content):
    assert rows(content, GATES) == [
        ["Held-out tokens to judge it on", "≥ 1", "14,656", "✓ holds"],
        [
            "Perplexity, times the teacher’sgates.max_perplexity_vs_teacher",
            "≤ 1.05",
            "0.9780.951–1.004",
            "✓ holds",
        ],
        ["KL to the teacher, nats a tokengates.max_kl_to_teacher", "≤ 1", "0.7660.741–0.79", "✓ holds"],
        ["Calibration errorgates.max_ece", "≤ 0.08", "0.03120.0281–0.0402", "✓ holds"],
        ["Same first choice as the teachergates.min_top1_agreement", "≥ 50.0 %", "57.1 %55.9–58.3 %", "✓ holds"],
        [
            "Perplexity, times the teacher’s, source=numpygates.per_slice.source=numpy.max_perplexity_vs_teacher",
            "≤ 1.2",
            "1.0130.98–1.05",
            "✓ holds",
        ],
        [
            "Rise over the blessed baselinegates.max_regression_vs_baselineheldout_nll is -0.4%",
            "≤ +2.0 %",
            "-0.4 %-1.2 to +0.3 %",
            "✓ holds",
        ],
        ["Ways in which files are not the student", "≤ 0", "0", "✓ holds"],
        ["Size of the file, tflitegates.max_bytes", "≤ 30.0 MB", "24.1 MB", "✓ holds"],
        ["4-grams repeated in completions, tflitegates.max_repetition_rate", "≤ 50.0 %", "21.0 %", "✓ holds"],
    ]


def test_why_there_is_no_figure_stands_in_its_row(content):
    words = "there is no held-out example of source=docs; there are source=novels"
    missing, damaged, first = rows(
        content,
        [
            gate("max_heldout_nll", 3.0, None, slice="source=docs", held=False, words=words),
            gate("parity", 0.0, 2.0, slice="files", metric="parity_failures", held=False, words="tflite: a weight differs"),
            gate("max_regression_vs_baseline", 0.02, None, metric="heldout_nll", words="there is no blessed model yet"),
        ],
    )
    assert missing[0].endswith(words)
    assert missing[2:] == ["–", "✗ fails"]
    assert damaged[0].endswith("tflite: a weight differs")
    assert damaged[2:] == ["2", "✗ fails"]
    assert first[0].endswith("there is no blessed model yet")
    assert first[2:] == ["–", "not asked"]


def test_gates_that_were_not_recorded_are_not_made_up(content):
    text = gates(dataclasses.replace(content, gates=None))
    assert "was not recorded" in text
    assert "<table" not in text


@pytest.mark.parametrize("name", [*GATED_METRICS, "max_bytes", "min_decode_tokens_per_second", "max_repetition_rate", "tokens", "parity"])
def test_every_gate_has_a_name(name):
    assert name in _NAMES


def test_a_gate_is_found_in_the_config_by_its_key():
    def key(name: str, slice: str) -> str:
        return GateResult(**gate(name, 1.0, 1.0, slice=slice)).key

    assert key("max_ece", "length=17-32") == "gates.per_slice.length=17-32.max_ece"
    assert key("max_bytes", "tflite") == "gates.max_bytes"
    assert key("parity", "files") == ""
