"""Who may use an output folder, and what is left in it."""

import contextlib
import dataclasses
import json
import pathlib
import threading

import pytest

from gemma_tf_distill.config import Config, CorpusConfig, GatesConfig, StudentConfig, TeacherConfig, TrainingConfig
from gemma_tf_distill.errors import ConfigError
from tfx_pipeline import output_folder
from tfx_pipeline.output_folder import OutputFolder, write_whole

CONFIG = Config(name="test", gates=GatesConfig(max_heldout_nll=4.0))


@pytest.fixture
def used(tmp_path: pathlib.Path) -> OutputFolder:
    folder = OutputFolder(tmp_path / "out")
    with folder.claim():
        folder.write_config(CONFIG)
    return folder


def test_checking_creates_nothing(tmp_path):
    OutputFolder(tmp_path / "a" / "b").check(CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"gates": GatesConfig(max_heldout_nll=3.0)},
        {"training": TrainingConfig(learning_rate=1e-3)},
        {"student": StudentConfig(layers=(0, 1))},
        {"seed": 7},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_that_keep_the_heldout_tokens_may_change(used, change):
    used.check(dataclasses.replace(CONFIG, **change))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"name": "other"}, "name was"),
        ({"teacher": TeacherConfig(source="preset:gemma3_1b")}, "teacher.source was"),
        ({"corpus": CorpusConfig(window=64)}, "corpus.window was 128 and is 64 now"),
        ({"corpus": CorpusConfig(source=("text:a", "text:b"))}, "corpus.source was"),
        ({"student": StudentConfig(vocabulary=5000)}, 'student.vocabulary was "corpus" and is 5000 now'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_folder_of_another_config_is_refused_and_the_key_named(used, change, key):
    before = used.config.read_bytes()
    with pytest.raises(ConfigError) as caught:
        used.check(dataclasses.replace(CONFIG, **change))
    assert "belongs to another config" in str(caught.value)
    assert key in str(caught.value)
    assert used.config.read_bytes() == before


def test_teacher_settings_that_do_not_change_the_tokens_may_change(used):
    used.check(dataclasses.replace(CONFIG, teacher=TeacherConfig(batch_size=3)))


def test_a_folder_of_a_version_that_had_fewer_keys_is_used_on(used):
    former = json.loads(used.config.read_text())
    del former["corpus"]["features"]
    used.config.write_text(json.dumps(former))
    used.check(CONFIG)
    with pytest.raises(ConfigError, match=r"corpus.features was \[\] and is \[\"language\"\] now"):
        used.check(dataclasses.replace(CONFIG, corpus=CorpusConfig(source="jsonl:a", features=("language",))))


def test_somebody_elses_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds files that are not of a run \(thesis.tex\)"):
        OutputFolder(tmp_path).check(CONFIG)


def test_what_a_run_that_was_killed_at_once_left_is_no_obstacle(tmp_path):
    folder = OutputFolder(tmp_path)
    with folder.claim():
        folder.new_log()
    folder.check(CONFIG)


def test_a_damaged_config_is_told(used):
    used.config.write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is damaged"):
        used.check(CONFIG)


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/nothing/below"])
def test_places_that_cannot_be_written_to(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another --output") as caught:
        OutputFolder(tmp_path / path).check(CONFIG)
    assert "\n" not in str(caught.value)


def test_one_run_at_a_time(used, monkeypatch):
    monkeypatch.setattr(output_folder, "_LOCK_SECONDS", 0.2)
    with used.claim(), pytest.raises(ConfigError, match="another run is using"), used.claim():
        pass
    with used.claim():
        pass


def test_what_is_left_of_a_killed_run_is_waited_for(used):
    with contextlib.ExitStack() as former:
        former.enter_context(used.claim())
        timer = threading.Timer(0.5, former.close)
        timer.start()
        with used.claim():
            timer.join()


def test_progress_starts_empty_in_every_run(used):
    used.progress.write_text("old\n")
    with used.claim():
        assert used.progress.read_text() == ""


@pytest.mark.parametrize("existed", [False, True])
def test_taking_back_leaves_things_as_they_were(tmp_path, existed):
    path = tmp_path / "a" / "b"
    if existed:
        path.mkdir(parents=True)
    folder = OutputFolder(path)
    with folder.claim() as claim:
        folder.write_config(CONFIG)
        (folder.pipeline_root / "CorpusGen").mkdir(parents=True)
        claim.take_back()
    assert sorted(tmp_path.rglob("*")) == ([tmp_path / "a", path] if existed else [])


def test_taking_back_never_touches_a_folder_that_had_something_in_it(used):
    with used.claim() as claim:
        claim.take_back()
    assert json.loads(used.config.read_text())["name"] == "test"


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_somebody_elses_config_and_logs_are_left_alone(tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "gemma3"}')
    with pytest.raises(ConfigError, match=r"config\.json that is not of a run"):
        OutputFolder(tmp_path / "hf").check(CONFIG)
    (tmp_path / "other" / "logs").mkdir(parents=True)
    (tmp_path / "other" / "logs" / "app.log").write_text("theirs")
    with pytest.raises(ConfigError, match=r"files that are not of a run \(logs\)"):
        OutputFolder(tmp_path / "other").check(CONFIG)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "logs").write_text("a file")
    with pytest.raises(ConfigError, match=r"files that are not of a run \(logs\)"):
        OutputFolder(tmp_path / "file").check(CONFIG)
