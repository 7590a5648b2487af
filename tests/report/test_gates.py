"""What gates asked and got, also gates that this code has never heard of."""

import pytest

from gemma_tf_distill.report.gates import list_gates

GATES = {"max_kl_to_teacher": 1.0, "min_top1_agreement": None, "max_regression_vs_baseline": "2%", "slices": ["source"]}
MEASURED = {"kl_to_teacher": 0.7, "heldout_nll": 3.0}


def test_each_gate_that_was_asked_has_a_row():
    kl, regression = list_gates(GATES, MEASURED, [], blessed=True, baseline={"heldout_nll": 2.0})
    assert (kl.name, kl.asked, kl.got, kl.passed) == ("max_kl_to_teacher", 1.0, 0.7, True)
    assert (regression.asked, regression.passed) == ("2%", True)
    assert regression.got == pytest.approx(0.5)


def test_without_a_baseline_there_is_no_regression_to_ask():
    assert list_gates(GATES, MEASURED, [], blessed=True)[1].passed is None


def test_a_failure_belongs_to_its_gate_or_has_a_row_of_its_own():
    reasons = ["kl is 1.2, gates.max_kl_to_teacher asks for at most 1", "there was no token", "gates.max_kl_to_teacher_twice is wrong"]
    rows = list_gates(GATES, MEASURED, reasons, blessed=False)
    assert [(row.name, row.passed, row.reason) for row in rows] == [
        ("max_kl_to_teacher", False, reasons[0]),
        ("max_regression_vs_baseline", None, ""),
        ("", False, reasons[1]),
        ("", False, reasons[2]),
    ]


def test_a_gate_whose_figure_is_not_known_is_not_claimed_to_hold():
    gates = {"max_bytes": 10, "max_ece": {"source:numpy": 0.1}}
    assert [row.passed for row in list_gates(gates, {}, ["other"], blessed=False)] == [None, None, False]
    # All gates of a blessed model hold, whoever asked them.
    assert [row.passed for row in list_gates(gates, {}, [], blessed=True)] == [True, True]
    assert [row.got for row in list_gates(gates, {"bytes": float("nan")}, [], blessed=True)] == [None, None]
