"""The file that events are added to."""

import pytest

from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.monitoring import progress


@pytest.mark.parametrize("place", [".", "missing/events.jsonl"])
def test_a_place_that_cannot_be_written_to_is_told(tmp_path, monkeypatch, place):
    monkeypatch.setenv(progress.ENVIRONMENT_VARIABLE, str(tmp_path / place))
    with pytest.raises(ConfigError, match=r"GEMMA_DISTILL_PROGRESS is .*set it to a file, or unset it"):
        progress.emit("note", message="x")
