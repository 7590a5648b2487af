"""Histograms, samples and hyperparameters of real runs, as TensorBoard's own reader finds them."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from gemma_tf_distill.config import DistillationConfig, QuantizationConfig, TrainingConfig, XlaConfig
from gemma_tf_distill.data.batches import training_batches
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.training.heldout import HeldoutMetrics
from gemma_tf_distill.training.log_lines import write_heldout
from gemma_tf_distill.training.loop import Run, fit
from gemma_tf_distill.training.snapshots import Snapshots
from gemma_tf_distill.xla.optimizer import XLAOptimizer

TRAINING = TrainingConfig(batch_size=4, learning_rate=5e-3, checkpoint_every=3, log_every=4)
GROUPS = {"embedding", "attention", "feed_forward", "norms"}


def run_in(folder, **fields) -> Run:
    folders = {"checkpoints": str(folder / "checkpoints"), "tensorboard": str(folder / "events")}
    return Run(name="student", learn_from_teacher=True, **folders, **fields)


def train(student, scored, folder, *, training=TRAINING, quantization=None) -> int:
    return fit(
        student,
        run_in(folder),
        lambda skip: training_batches(scored.files, window=scored.window, top_k=scored.top_k, batch_size=4, seed=5, skip=skip),
        training=training,
        distillation=DistillationConfig(top_k=scored.top_k),
        total_steps=5,
        quantization=quantization,
        xla=XLAOptimizer(XlaConfig(jit_scope="none")),
    )


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def histogram(events, name) -> dict[int, np.ndarray]:
    """float64 [bins, 3] by step: left edge, right edge, count."""
    assert events.SummaryMetadata(name).plugin_data.plugin_name == "histograms"
    return {event.step: tf.make_ndarray(event.tensor_proto) for event in events.Tensors(name)}


def text(events, name) -> dict[int, list[str]]:
    assert events.SummaryMetadata(name).plugin_data.plugin_name == "text"
    return {event.step: [item.decode() for item in tf.make_ndarray(event.tensor_proto).ravel()] for event in events.Tensors(name)}


def test_weights_and_samples_at_the_beginning_at_checkpoints_and_at_the_end(scored_windows, make_student, tmp_path):
    student = make_student()
    first = student.backbone.token_embedding.embeddings.numpy()
    assert train(student, scored_windows, tmp_path) == 5
    events = read(tmp_path / "events")
    assert {tag.removeprefix("weights/") for tag in events.Tags()["tensors"] if tag.startswith("weights/")} == GROUPS
    embedding = histogram(events, "weights/embedding")
    assert list(embedding) == [0, 3, 5]
    # All of so small a matrix, and nothing but it.
    for step, values in ((0, first), (5, student.backbone.token_embedding.embeddings.numpy())):
        assert embedding[step][:, 2].sum() == values.size
        assert embedding[step][0, 0] == pytest.approx(values.min(), rel=1e-5)
        assert embedding[step][-1, 1] == pytest.approx(values.max(), rel=1e-5)
    samples = text(events, "samples")
    assert list(samples) == [0, 3, 5]
    assert len(samples[5]) == 3 and samples[0] != samples[5]
    batches = training_batches(scored_windows.files, window=scored_windows.window, top_k=scored_windows.top_k, batch_size=4, seed=5)
    window = next(iter(batches))["tokens"][0].numpy()
    begins = student.tokenizer.decode(window[:6])
    assert samples[5][0].startswith("the text begins:\n\n    " + begins.splitlines()[0])
    assert "\n\nthe student:\n\n    " in samples[5][0]


def test_rounding_is_shown_of_a_student_that_learns_for_integers(scored_windows, make_student, tmp_path):
    train(make_student(), scored_windows, tmp_path, quantization=QuantizationConfig(scheme="int4_channel"))
    events = read(tmp_path / "events")
    error = histogram(events, "quantization_error/embedding")
    assert list(error) == [0, 3, 5]
    edges, counts = error[0][:, :2].mean(axis=1), error[0][:, 2]
    # Of fifteen steps over a row: some tenths of its rms, as often up as down.
    assert 0.03 < math.sqrt((counts * edges**2).sum() / counts.sum()) < 0.3
    assert abs((counts * edges).sum() / counts.sum()) < 0.02
    assert "quantization_error/norms" not in events.Tags()["tensors"]


def test_a_run_that_is_resumed_elsewhere_has_its_hyperparameters_there(scored_windows, make_student, tmp_path):
    train(make_student(), scored_windows, tmp_path)
    (tmp_path / "events").rename(tmp_path / "former")
    # From the checkpoint of step 3.
    train(make_student(), scored_windows, tmp_path)
    events = read(tmp_path / "events")
    assert "_hparams_/session_start_info" in events.Tags()["tensors"]
    assert list(text(events, "samples")) == [5]


def test_without_a_monitor_there_are_scalars_alone(scored_windows, make_student, tmp_path):
    train(make_student(), scored_windows, tmp_path, training=dataclasses.replace(TRAINING, monitor=False))
    tags = set(read(tmp_path / "events").Tags()["tensors"])
    assert "distill/loss" in tags
    assert not {tag for tag in tags if tag.startswith(("weights/", "samples", "_hparams_"))}


def test_values_that_are_no_numbers_are_counted_and_break_nothing(scored_windows, make_student, tmp_path):
    student = make_student()
    values = student.backbone.token_embedding.embeddings.numpy()
    values[0, :2] = np.nan, np.inf
    student.backbone.token_embedding.embeddings.assign(values)
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default(7):
        Snapshots(student, tf.constant(scored_windows.tokens[:4], tf.int32)).write()
    writer.close()
    events = read(tmp_path)
    assert text(events, "weights/not_finite") == {7: [f"2 of {values.size:,} sampled values of embedding are no numbers"]}
    assert histogram(events, "weights/embedding")[7][:, 2].sum() == values.size - 2


def test_hyperparameters_and_what_they_came_to(scored_windows, make_student, tmp_path):
    train(make_student(), scored_windows, tmp_path)
    found = HeldoutMetrics(nll=3.0, kl_to_teacher=0.5, top1_agreement=0.6, teacher_nll=2.0, tokens=10)
    write_heldout(run_in(tmp_path, control_nll=4.0), 5, found)
    events = read(tmp_path / "events")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    session = metadata.parse_session_start_info_plugin_data(content)
    assert session.hparams["training.learning_rate"].number_value == 5e-3
    assert session.hparams["training.batch_size"].number_value == 4
    assert session.hparams["training.early_stopping"].string_value == "none"
    assert session.hparams["distillation.alpha"].number_value == 0.5
    assert session.hparams["student.layers"].number_value == 2
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    metrics = {info.name.tag for info in experiment.metric_infos}
    columns = {info.name for info in experiment.hparam_infos}
    assert columns > set(session.hparams)
    # Those of runs that lie beside it, too.
    assert {"quantization.scheme", "distillation.alpha"} <= columns
    reached = {name: [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(name)] for name in metrics}
    assert {name.removeprefix("distill/"): value for name, [(_, value)] in reached.items()} == pytest.approx(
        {"heldout_nll": 3.0, "heldout_kl": 0.5, "heldout_top1_agreement": 0.6, "gap_closed": 0.5}
    )
    assert {step for [(step, _)] in reached.values()} == {5}


def test_a_log_folder_that_can_not_be_written_to_is_told_before_anything_runs(scored_windows, make_student, tmp_path):
    (tmp_path / "events").write_text("a file")
    with pytest.raises(ConfigError, match=r"event files can't be written to .*/events \(.*\): give training a folder"):
        train(make_student(), scored_windows, tmp_path)
    assert (tmp_path / "events").read_text() == "a file"
    assert not (tmp_path / "checkpoints").exists()
