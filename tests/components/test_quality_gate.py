"""The quality gate with TFX's real Evaluator, on modules whose `eval` signature gives back sums that stand in the examples."""

import math
import pathlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tfx import v1 as tfx
from tfx.components.evaluator import executor as evaluator_executor
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import json_utils, proto_utils

from components.quality_gate import metrics
from components.quality_gate.eval_config import SPLIT, create_eval_config
from components.quality_gate.results import OVERALL, GateFailure, read_failures, read_metrics
from gemma_tf_distill.config import GatesConfig

# Three windows of two sources; the sums of each, in the order of metrics.OUTPUTS.
WINDOWS = [("numpy", [30.0, 5.0, 4.0, 20.0, 10.0]), ("numpy", [10.0, 1.0, 3.0, 8.0, 4.0]), ("keras", [12.0, 2.0, 1.0, 8.0, 6.0])]
STRICT = GatesConfig(max_heldout_nll=3.0, max_perplexity_vs_teacher=3.0, max_kl_to_teacher=1.0, min_top1_agreement=0.3)


class Judged(tf.Module):
    """A module with the `eval` signature: the sums of its examples, the student's cross-entropy times `scale`."""

    def __init__(self, scale: float, outputs: tuple[str, ...]):
        super().__init__()
        self.scale = tf.Variable(scale, dtype=tf.float32)
        self.outputs = outputs

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def eval(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, {"sums": tf.io.FixedLenFeature([len(metrics.OUTPUTS)], tf.float32)})["sums"]
        sums = dict(zip(metrics.OUTPUTS, tf.unstack(parsed, axis=1), strict=True))
        sums["nll_sum"] *= self.scale
        return {name: sums[name] for name in self.outputs}


class Judge:
    """Runs TFX's Evaluator in a folder, as the pipeline does."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.runs = 0

    def model(self, scale: float = 1.0, outputs: tuple[str, ...] = metrics.OUTPUTS) -> tfx.types.standard_artifacts.Model:
        artifact = tfx.types.standard_artifacts.Model()
        artifact.uri = str(self.folder / f"model-{scale}-{len(outputs)}")
        module = Judged(scale, outputs)
        tf.saved_model.save(module, artifact.uri + "/Format-Serving", signatures={"eval": module.eval})
        return artifact

    def examples(self, windows: list[tuple[str, list[float]]]) -> tfx.types.standard_artifacts.Examples:
        artifact = tfx.types.standard_artifacts.Examples()
        artifact.uri = str(self.folder / f"examples-{self.runs}")
        artifact.split_names = artifact_utils.encode_split_names([SPLIT])
        split = pathlib.Path(artifact.uri) / f"Split-{SPLIT}"
        split.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(split / "data-00000-of-00001.gz"), "GZIP") as writer:
            for source, sums in windows:
                features = {
                    "source": tf.train.Feature(bytes_list=tf.train.BytesList(value=[source.encode()])),
                    "sums": tf.train.Feature(float_list=tf.train.FloatList(value=sums)),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
        return artifact

    def __call__(self, gates: GatesConfig, model, baseline=None, windows=None) -> tuple[bool, str]:
        """Whether the model is blessed, and where its evaluation is."""
        self.runs += 1
        evaluation, blessing = tfx.types.standard_artifacts.ModelEvaluation(), tfx.types.standard_artifacts.ModelBlessing()
        evaluation.uri = str(self.folder / f"evaluation-{self.runs}")
        blessing.uri = str(self.folder / f"blessing-{self.runs}")
        executor = evaluator_executor.Executor(
            base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=["--direct_running_mode=in_memory"])
        )
        inputs = {"examples": [self.examples(WINDOWS if windows is None else windows)], "model": [model]}
        executor.Do(
            inputs | ({"baseline_model": [baseline]} if baseline else {}),
            {"evaluation": [evaluation], "blessing": [blessing]},
            {
                "eval_config": proto_utils.proto_to_json(create_eval_config(gates, source_digest="abc")),
                "example_splits": json_utils.dumps([SPLIT]),
            },
        )
        blessed = blessing.get_int_custom_property("blessed") == 1
        assert blessed == (pathlib.Path(blessing.uri) / "BLESSED").exists()
        return blessed, evaluation.uri


@pytest.fixture
def judge(tmp_path: pathlib.Path) -> Judge:
    return Judge(tmp_path)


def test_metrics_are_sums_over_tokens_overall_and_by_source(judge):
    blessed, evaluation = judge(STRICT, judge.model())
    assert blessed and read_failures(evaluation) == []
    slices = read_metrics(evaluation)
    assert set(slices) == {OVERALL, "source:numpy", "source:keras"}
    for label, windows in {OVERALL: WINDOWS, "source:numpy": WINDOWS[:2], "source:keras": WINDOWS[2:]}.items():
        nll, kl, hits, teacher_nll, tokens = np.sum([sums for _, sums in windows], axis=0)
        expected = {
            "heldout_nll": nll / tokens,
            "teacher_heldout_nll": teacher_nll / tokens,
            "kl_to_teacher": kl / tokens,
            "top1_agreement": hits / tokens,
            "perplexity_vs_teacher": math.exp(nll / tokens) / math.exp(teacher_nll / tokens),
            "tokens": tokens,
        }
        # The sums are small whole numbers, exact in float32; float64 division follows.
        assert slices[label] == pytest.approx(expected, rel=1e-12)


def test_a_model_that_misses_a_value_threshold_is_not_blessed(judge):
    gates = GatesConfig(max_heldout_nll=2.5, max_perplexity_vs_teacher=3.0, max_kl_to_teacher=0.3, min_top1_agreement=0.5)
    blessed, evaluation = judge(gates, judge.model())
    assert not blessed
    failures = {failure.gate: failure for failure in read_failures(evaluation)}
    assert failures == {
        "max_heldout_nll": GateFailure("max_heldout_nll", "heldout_nll", pytest.approx(2.6), pytest.approx(2.5)),
        "max_kl_to_teacher": GateFailure("max_kl_to_teacher", "kl_to_teacher", pytest.approx(0.4), pytest.approx(0.3)),
        "min_top1_agreement": GateFailure("min_top1_agreement", "top1_agreement", pytest.approx(0.4), pytest.approx(0.5)),
    }
    assert str(failures["max_heldout_nll"]) == "heldout_nll is 2.6000, gates.max_heldout_nll asks for at most 2.5"
    assert "at least 0.5" in str(failures["min_top1_agreement"])


def test_the_change_threshold_is_relative_to_the_baseline(judge):
    gates = GatesConfig(max_heldout_nll=9.0, max_regression_vs_baseline="10%")
    model = judge.model()
    blessed, evaluation = judge(gates, model, baseline=judge.model(0.5))
    [failure] = read_failures(evaluation)
    assert not blessed
    assert (failure.gate, failure.metric, failure.limit) == ("max_regression_vs_baseline", "heldout_nll", pytest.approx(0.1))
    assert failure.value == pytest.approx(1.0)  # Twice the baseline's: a rise of 100 %.
    assert "+100.0%" in str(failure) and "+10.0%" in str(failure)
    blessed, evaluation = judge(gates, model, baseline=judge.model(0.95))
    assert blessed
    # The candidate's metrics are read, not the baseline's or the difference.
    assert read_metrics(evaluation)[OVERALL]["heldout_nll"] == pytest.approx(2.6)


def test_a_missing_output_fails(judge):
    gates = GatesConfig(max_heldout_nll=99.0)  # Does not look at the KL that is missing.
    blessed, evaluation = judge(gates, judge.model(outputs=tuple(name for name in metrics.OUTPUTS if name != "kl_sum")))
    assert not blessed and {failure.gate for failure in read_failures(evaluation)} == {"max_heldout_nll", "tokens"}
    assert math.isnan(read_metrics(evaluation)[OVERALL]["heldout_nll"])


def test_minus_infinity_does_not_pass_for_a_small_number(judge):
    blessed, evaluation = judge(GatesConfig(max_heldout_nll=99.0), judge.model(-math.inf))
    assert not blessed and read_failures(evaluation)


@pytest.mark.parametrize("windows", [[], [("numpy", [0.0] * 5)]], ids=["no example", "no counted token"])
def test_no_tokens_fail(judge, windows):
    blessed, evaluation = judge(GatesConfig(max_heldout_nll=99.0), judge.model(), windows=windows)
    assert not blessed
    assert any("no held-out token" in str(failure) for failure in read_failures(evaluation))
    assert not any(math.isfinite(value) for value in read_metrics(evaluation).get(OVERALL, {}).values())


def value_of(metric: type[metrics.TokenMetric], *windows: dict[str, float]) -> float:
    [computation] = metric().computations(model_names=["candidate"])
    combiner = computation.combiner
    inputs = [tfma.metrics.StandardMetricInputs({"predictions": {"candidate": window}}) for window in windows]
    # Every window in a shard of its own, merged at the end, as Beam may do it.
    shards = [combiner.add_input(combiner.create_accumulator(), element) for element in inputs]
    [(key, value)] = combiner.extract_output(combiner.merge_accumulators([combiner.create_accumulator(), *shards])).items()
    assert (key.name, key.model_name) == (metric.NAME, "candidate")
    return value


GOOD = dict(zip(metrics.OUTPUTS, WINDOWS[0][1], strict=True))


@pytest.mark.parametrize("metric", metrics.METRICS)
@pytest.mark.parametrize("output", metrics.OUTPUTS)
def test_one_bad_window_makes_every_metric_nan(metric, output):
    assert math.isfinite(value_of(metric, GOOD, GOOD))
    for bad in [GOOD | {output: math.nan}, GOOD | {output: math.inf}, {name: GOOD[name] for name in GOOD if name != output}]:
        assert math.isnan(value_of(metric, GOOD, bad))


@hypothesis.given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 1000)), min_size=1, max_size=5))
@hypothesis.settings(max_examples=20, deadline=None)
def test_windows_weigh_as_many_tokens_as_they_have(windows):
    value = value_of(metrics.HeldoutNll, *(GOOD | {"nll_sum": nll, "token_count": tokens} for nll, tokens in windows))
    assert value == pytest.approx(sum(nll for nll, _ in windows) / sum(tokens for _, tokens in windows))


def test_the_formula_of_the_perplexity_does_not_overflow():
    assert value_of(metrics.PerplexityVsTeacher, GOOD | {"nll_sum": 1e6}) == math.inf


def test_only_the_gates_that_are_asked_for_become_thresholds():
    gates = GatesConfig(max_kl_to_teacher=0.5, max_regression_vs_baseline=None, slices=())
    config = create_eval_config(gates, "digest")
    assert {metric.class_name for metric in config.metrics_specs[0].metrics if metric.per_slice_thresholds} == {"KlToTeacher", "Tokens"}
    assert len(config.slicing_specs) == 1
    # Changed code of the metrics must miss the Evaluator's cache, whose key is this proto.
    assert create_eval_config(gates, "digest") == config != create_eval_config(gates, "another")
