"""Where the artifacts of a run are, after its folder was moved."""

import json

import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError

from gemma_tf_distill.errors import UserError
from tfx_pipeline import report_page
from tfx_pipeline.output_folder import OutputFolder


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("/gone/demo/pipeline/Exporter/model/7", "pipeline/Exporter/model/7"),
        ("/gone/pipeline/demo/pushed/1795764746", "pushed/1795764746"),
        ("/gone/pushed/demo/pipeline/Pusher/pushed_model/10", "pipeline/Pusher/pushed_model/10"),
    ],
)
def test_what_was_moved_is_found_by_its_place(tmp_path, written, place):
    assert report_page._moved(written, OutputFolder(tmp_path)) == str(tmp_path / place)


def test_what_is_there_or_in_a_bucket_stays(tmp_path):
    folder = OutputFolder(tmp_path / "run")
    there = tmp_path / "pipeline" / "Exporter"
    there.mkdir(parents=True)
    for uri in (str(there), "gs://bucket/pipeline/Exporter", "/gone/elsewhere"):
        assert report_page._moved(uri, folder) == uri


def test_a_copy_is_read_by_itself_though_the_original_is_there(tmp_path):
    original, copy = (tmp_path / name / "pipeline" / "Exporter" for name in ("run", "copy"))
    original.mkdir(parents=True)
    copy.mkdir(parents=True)
    assert report_page._moved(str(original), OutputFolder(tmp_path / "copy")) == str(copy)


def test_places_are_relative_where_they_lie_in_the_folder(tmp_path):
    folder = OutputFolder(tmp_path)
    assert report_page._relative(str(tmp_path / "pushed" / "1"), folder) == "pushed/1"
    assert report_page._relative("gs://bucket/pushed/1", folder) == "gs://bucket/pushed/1"


def test_lines_of_progress_that_are_not_whole_are_left_out(tmp_path):
    (tmp_path / "progress.jsonl").write_bytes(
        b'{"event": "stage"}\n{"event": "st\n5\n{}\n\xff\xfe\n{"event": "error", "message": "disk full"}\n{"ev'
    )
    folder = OutputFolder(tmp_path)
    assert [event["event"] for event in report_page._events(folder)] == ["stage", "error"]
    assert report_page._last_error(folder) == "disk full"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "config.json",
            '{"name": "x", "training": {"old_key": 1}}',
            r"config\.json is not of this version .*training\.old_key.*run the config again",
        ),
        ("config.json", "{", r"config\.json is damaged"),
        ("report.json", "{", r"report\.json is damaged"),
        ("report.json", '{"a": 1}', r"report\.json is not of gemma-distill"),
        ("metadata.sqlite", "", r"metadata\.sqlite is damaged or empty"),
    ],
)
def test_damaged_files_of_a_run_are_told(tmp_path, file, content, message):
    files = {"config.json": '{"name": "x"}', "report.json": '{"seconds": {}}', "metadata.sqlite": "", file: content}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        report_page.rebuild_page(tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (json.JSONDecodeError("cut short", "{", 1), "are damaged .*cut short"),
        (DecodeError("no message"), "are damaged .*no message"),
        (tf.errors.DataLossError(None, None, "truncated record"), "are damaged .*truncated record"),
        (tf.errors.NotFoundError(None, None, "distances.json"), r"are gone \(distances\.json"),
    ],
)
def test_artifacts_that_the_page_cannot_be_made_of_are_told(tmp_path, monkeypatch, error, message):
    for name, text in {"config.json": '{"name": "x"}', "report.json": '{"seconds": {}}', "metadata.sqlite": ""}.items():
        (tmp_path / name).write_text(text)

    def fail(*arguments):
        raise error

    monkeypatch.setattr(report_page, "open_metadata", lambda database: None)
    monkeypatch.setattr(report_page, "latest_run", lambda *arguments: {})
    monkeypatch.setattr(report_page, "create_outcome", lambda *arguments: None)
    monkeypatch.setattr(report_page, "write_page", fail)
    with pytest.raises(UserError, match=message):
        report_page.rebuild_page(tmp_path)
