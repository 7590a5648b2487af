"""A profile of the steps that a config names, as XProf's own converter reads it."""

import json

import pytest

from gemma_tf_distill.config import DistillationConfig, TrainingConfig
from gemma_tf_distill.data.batches import training_batches
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.training.loop import Run, fit

raw_to_tool_data = pytest.importorskip("xprof.convert.raw_to_tool_data", exc_type=ImportError)


def train(student, scored, folder, window):
    fit(
        student,
        Run(name="student", learn_from_teacher=True, checkpoints=str(folder / "checkpoints"), tensorboard=str(folder / "events")),
        lambda skip: training_batches(scored.files, window=scored.window, top_k=scored.top_k, batch_size=4, seed=5, skip=skip),
        training=TrainingConfig(batch_size=4, profile_steps=window),
        distillation=DistillationConfig(top_k=scored.top_k),
        total_steps=7,
    )


def test_xprof_finds_the_steps_of_the_window(scored_windows, make_student, tmp_path):
    train(make_student(), scored_windows, tmp_path, (3, 5))
    (profile,) = (tmp_path / "events" / "plugins" / "profile").glob("*/*.xplane.pb")
    data, _ = raw_to_tool_data.xspace_to_tool_data([str(profile)], "overview_page", {})
    text = data if isinstance(data, str) else data.decode()
    assert "no step marker" not in text.lower()
    (steps,) = [table for table in json.loads(text) if {"stepnum", "stepTimeMs"} <= {column["id"] for column in table.get("cols", [])}]
    assert [row["c"][0]["v"] for row in steps["rows"]] == ["train 3", "train 4", "train 5"]


def test_a_window_beyond_the_last_step_is_refused_before_anything_runs(scored_windows, make_student, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.profile_steps is \[6, 9\], but training takes 7 steps"):
        train(make_student(), scored_windows, tmp_path, (6, 9))
    assert not list(tmp_path.iterdir())
