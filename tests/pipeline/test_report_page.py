"""Where the artifacts of a run are, after its folder was moved."""

import pytest

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


def test_places_are_relative_where_they_lie_in_the_folder(tmp_path):
    folder = OutputFolder(tmp_path)
    assert report_page._relative(str(tmp_path / "pushed" / "1"), folder) == "pushed/1"
    assert report_page._relative("gs://bucket/pushed/1", folder) == "gs://bucket/pushed/1"
