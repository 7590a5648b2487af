"""Runs ranked by their figures, on a database in memory and on one that is a file."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfx.types import standard_artifacts

from components.properties import set_figures
from gemma_tf_distill.errors import UserError
from gemma_tf_distill.monitoring.knowledge_transfer import gap_closed
from tests.pipeline.test_report import Database, Execution
from tfx_pipeline.run_ranking import rank, rank_runs, render_ranking


def evaluated(database: Database, run: str, state: int = Execution.COMPLETE, blessed: int = 1, **figures) -> None:
    database.execute(run, "Distiller", state, outputs={"student": properties(heldout_nll=9.0, parameters=5)})
    database.execute(run, "Evaluator", state, outputs={"evaluation": properties(**figures), "blessing": properties(blessed=blessed)})


def properties(**figures):
    artifact = standard_artifacts.Model()
    set_figures(artifact, figures)
    return artifact.mlmd_artifact.custom_properties


@pytest.fixture
def database() -> Database:
    return Database()


def test_the_best_run_is_first_and_what_is_no_number_last(database):
    evaluated(database, "monday", heldout_nll=3.5, top1_agreement=0.4)
    evaluated(database, "tuesday", heldout_nll=math.nan, top1_agreement=0.9)
    evaluated(database, "wednesday", heldout_nll=3.1, top1_agreement=0.6, blessed=0)
    ranked = rank(database.store, "heldout_nll")
    assert [(run.run, run.rank, run.blessed) for run in ranked] == [("wednesday", 1, False), ("monday", 2, True), ("tuesday", None, True)]
    # A NaN is shown as what it is, and the student's own figure does not stand in for it.
    assert ranked[-1].figures["heldout_nll"] == "nan"
    assert ranked[0].figures["parameters"] == 5
    table = render_ranking(ranked, "heldout_nll").splitlines()
    assert "nan" in table[-1] and "wednesday" in table[1] and "3.100" in table[1]
    # Agreement is better when it is higher.
    assert [run.run for run in rank(database.store, "top1_agreement")] == ["tuesday", "wednesday", "monday"]


def test_a_run_that_failed_has_no_figures(database):
    evaluated(database, "monday", heldout_nll=3.5)
    evaluated(database, "tuesday", state=Execution.FAILED, heldout_nll=1.0)
    assert [(run.run, run.rank) for run in rank(database.store, "heldout_nll")] == [("monday", 1), ("tuesday", None)]


def test_a_figure_that_nobody_measured_is_told_with_those_that_there_are(database):
    evaluated(database, "monday", heldout_nll=3.5)
    with pytest.raises(UserError, match="no run has the figure beauty: the figures are heldout_nll, parameters"):
        rank(database.store, "beauty")


def test_properties_of_tfx_are_no_figures(database):
    database.execute("monday", "Distiller", Execution.COMPLETE, outputs={"student": properties(is_external=1)})
    with pytest.raises(UserError, match="none of them recorded any"):
        rank(database.store, "is_external")


def test_a_folder_without_runs_is_told(tmp_path):
    with pytest.raises(UserError, match=r"holds no runs, it has no metadata\.sqlite"):
        rank_runs(tmp_path)


def test_text_none_and_truth_values_are_no_figures():
    found = properties(a=1, b=0.5, c=None, d=True, e="text", f=-math.inf)
    kinds = {name: value.WhichOneof("value") for name, value in found.items()}
    assert kinds == {"a": "int_value", "b": "double_value", "f": "string_value"}


nats = st.floats(0, 20)


@given(control=nats, teacher=nats, share=st.floats(-2, 2))
def test_the_gap_is_the_share_of_the_way(control, teacher, share):
    student = control + share * (teacher - control)
    found = gap_closed(student, control, teacher)
    if control <= teacher:
        assert found is None
    elif control - teacher > 1e-6:
        assert found == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("figures", [(None, 2.0, 1.0), (1.5, None, 1.0), (1.5, 2.0, None), (math.nan, 2.0, 1.0), (1.5, math.inf, 1.0)])
def test_no_gap_without_its_figures(figures):
    assert gap_closed(*figures) is None


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + b"\1" * 500])
def test_a_database_that_cannot_be_read_is_told_and_left_alone(tmp_path, content):
    database = tmp_path / "metadata.sqlite"
    database.write_bytes(content)
    with pytest.raises(UserError, match=r"metadata\.sqlite is damaged or empty.*run the config again"):
        rank_runs(tmp_path)
    assert database.read_bytes() == content
