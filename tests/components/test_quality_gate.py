"""The quality gate with TFX's real Evaluator, on modules whose `eval` signature gives back sums that stand in the examples."""

import json
import math
import pathlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma

from components.quality_gate import metrics
from components.quality_gate.bootstrap import interval, resampled_sums
from components.quality_gate.component import Evaluator, evaluator_config
from components.quality_gate.eval_config import create_eval_config
from components.quality_gate.files import Exported, read_exported
from components.quality_gate.judge import judge as judge_metrics
from components.quality_gate.results import OVERALL, read_baseline_metrics, read_files, read_gates, read_metrics
from gemma_tf_distill.config import GatesConfig, SliceGates, config_from_dict
from gemma_tf_distill.errors import WeightsError
from gemma_tf_distill.export.token_sums import CALIBRATION, CALIBRATION_BINS, SUMS

# Three windows of two sources; the sums of each, in the order of SUMS, and the gaps of two bins of confidence.
WINDOWS = [
    ("numpy", [30.0, 5.0, 4.0, 6.0, 20.0, 10.0, 40.0], (1.0, -2.0)),
    ("numpy", [10.0, 1.0, 3.0, 4.0, 8.0, 4.0, 12.0], (0.0, 1.0)),
    ("keras", [12.0, 2.0, 1.0, 2.0, 8.0, 6.0, 20.0], (0.5, 0.0)),
]
STRICT = GatesConfig(
    max_heldout_nll=3.0,
    max_perplexity_vs_teacher=3.0,
    max_bits_per_byte=1.1,
    max_kl_to_teacher=1.0,
    max_ece=0.2,
    min_top1_agreement=0.3,
    min_top5_agreement=0.6,
)
OUTPUTS = {**dict.fromkeys(SUMS, 1), **dict.fromkeys(CALIBRATION, CALIBRATION_BINS)}


def sums_of(window) -> np.ndarray:
    _, sums, (first, last) = window
    gaps = np.zeros([2, CALIBRATION_BINS])
    gaps[0, 0], gaps[0, -1], gaps[1, 3] = first, last, 0.25
    return np.concatenate([sums, gaps.ravel()])


def serialized(windows) -> list[bytes]:
    found = []
    for window in windows:
        features = {
            "source": tf.train.Feature(bytes_list=tf.train.BytesList(value=[window[0].encode()])),
            "sums": tf.train.Feature(float_list=tf.train.FloatList(value=sums_of(window))),
        }
        found.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return found


class Judged(tf.Module):
    """A module with the `eval` signature: the sums of its examples, the student's cross-entropy times `scale`."""

    def __init__(self, scale: float, outputs: tuple[str, ...]):
        super().__init__()
        self.scale = tf.Variable(scale, dtype=tf.float32)
        self.outputs = outputs

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def eval(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, {"sums": tf.io.FixedLenFeature([sum(OUTPUTS.values())], tf.float32)})["sums"]
        parts = tf.split(parsed, list(OUTPUTS.values()), axis=1)
        sums = {name: tf.squeeze(part, 1) if OUTPUTS[name] == 1 else part for name, part in zip(OUTPUTS, parts, strict=True)}
        sums["nll_sum"] *= self.scale
        return {name: sums[name] for name in self.outputs}


@pytest.fixture
def make_model(judge):
    def make(scale: float = 1.0, without: str = "", **artifact):
        model = judge.artifact(f"model-{scale}-{without}-{len(artifact)}", **artifact)
        module = Judged(scale, tuple(name for name in OUTPUTS if name != without))
        tf.saved_model.save(module, model.uri + "/Format-Serving", signatures={"eval": module.eval})
        return model

    return make


def test_a_good_model_is_blessed_and_every_gate_says_what_was_asked_and_reached(judge, make_model):
    gates = GatesConfig(
        **STRICT.asked,
        slices=("source",),
        per_slice={"source=keras": SliceGates(max_heldout_nll=2.5)},
        max_bytes=5_000_000,
        min_decode_tokens_per_second={"tflite": 20.0},
        max_repetition_rate=0.1,
    )
    blessed, evaluation, failed = judge(gates, serialized(WINDOWS), make_model())
    assert blessed and failed == {}
    slices = read_metrics(evaluation)
    assert set(slices) == {OVERALL, "source=numpy", "source=keras"}
    for label, windows in {OVERALL: WINDOWS, "source=numpy": WINDOWS[:2], "source=keras": WINDOWS[2:]}.items():
        nll, kl, top1, top5, teacher_nll, tokens, size, *gaps = np.sum([sums_of(window) for window in windows], axis=0)
        expected = {
            "heldout_nll": nll / tokens,
            "perplexity": math.exp(nll / tokens),
            "bits_per_byte": nll / size / math.log(2),
            "teacher_heldout_nll": teacher_nll / tokens,
            "teacher_perplexity": math.exp(teacher_nll / tokens),
            "teacher_bits_per_byte": teacher_nll / size / math.log(2),
            "kl_to_teacher": kl / tokens,
            "top1_agreement": top1 / tokens,
            "top5_agreement": top5 / tokens,
            "ece": np.abs(gaps[:15]).sum() / tokens,
            "teacher_ece": np.abs(gaps[15:]).sum() / tokens,
            "perplexity_vs_teacher": math.exp(nll / tokens) / math.exp(teacher_nll / tokens),
            "tokens": tokens,
        }
        assert set(expected) == set(metrics.METRICS)
        # The sums are small binary fractions, exact in float32; float64 division follows.
        assert {name: slices[label][name] for name in expected} == pytest.approx(expected, rel=1e-12)
    # One window is no sample to draw from again.
    assert math.isnan(slices["source=keras"]["heldout_nll_low"])
    results = read_gates(evaluation)
    records = json.loads(pathlib.Path(evaluation, "gates.json").read_text())
    assert {"gate", "slice", "asked", "got", "low", "high", "held"} < set(records[0])
    assert [(result.gate, result.slice) for result in results] == [
        ("tokens", OVERALL),
        *((gate, OVERALL) for gate in STRICT.asked),
        ("max_heldout_nll", "source=keras"),
        ("max_regression_vs_baseline", OVERALL),
        ("parity", "files"),
        ("max_bytes", "saved_model"),
        ("max_bytes", "tflite"),
        ("min_decode_tokens_per_second", "tflite"),
        ("max_repetition_rate", "saved_model"),
        ("max_repetition_rate", "tflite"),
    ]
    nll = results[2]
    assert (nll.asked, nll.got, nll.metric) == (3.0, pytest.approx(2.6), "heldout_nll")
    assert 2.0 <= nll.low < nll.got < nll.high <= 3.0
    assert "no blessed model yet" in next(result.words for result in results if result.gate == "max_regression_vs_baseline")
    assert read_files(evaluation)["tflite"] == {"bytes": 1_000_000, "decode_tokens_per_second": 20.0, "repetition_rate": 0.0}


def test_each_gate_that_does_not_hold_is_named_with_its_figures(judge, make_model):
    # Each asks for a little more than what the model reaches.
    asked = {
        "max_perplexity_vs_teacher": 2.2,
        "max_heldout_nll": 2.5,
        "max_bits_per_byte": 1.04,
        "max_kl_to_teacher": 0.35,
        "max_ece": 0.1,
        "min_top1_agreement": 0.45,
        "min_top5_agreement": 0.65,
    }
    gates = GatesConfig(
        **asked,
        per_slice={
            "source=keras": SliceGates(min_top1_agreement=0.5, max_kl_to_teacher=0.5),
            "source=scipy": SliceGates(max_heldout_nll=99.0),
        },
    )
    blessed, _, failed = judge(gates, serialized(WINDOWS), make_model())
    assert not blessed
    assert set(failed) == {*(f"{gate} overall" for gate in asked), "min_top1_agreement source=keras", "max_heldout_nll source=scipy"}
    assert failed["max_heldout_nll overall"].words == "heldout_nll is 2.6000, gates.max_heldout_nll asks for at most 2.5"
    assert failed["min_top1_agreement source=keras"].words == (
        "top1_agreement of source=keras is 0.1667, gates.per_slice.source=keras.min_top1_agreement asks for at least 0.5"
    )
    assert failed["max_heldout_nll source=scipy"].words == (
        "there is no held-out example of source=scipy, of which gates.per_slice.source=scipy.max_heldout_nll asks for at most 99; "
        "there are source=keras, source=numpy"
    )


def test_gates_on_files_that_do_not_hold_undo_tfmas_blessing(judge, make_model):
    files = {"saved_model": {"bytes": 4_000_000, "speed": 50.0}, "tflite": {"bytes": 1_000_000, "speed": None, "completions": {"a": "b"}}}
    gates = GatesConfig(
        max_heldout_nll=9.0,
        max_bytes={"saved_model": 3_999_999, "tflite": 1_000_000},
        min_decode_tokens_per_second=50.0,
        max_repetition_rate=0.5,
    )
    _, _, failed = judge(gates, serialized(WINDOWS), make_model(files=files))
    assert {name: result.words for name, result in failed.items()} == {
        "max_bytes saved_model": "bytes of saved_model is 4,000,000, gates.max_bytes asks for at most 3,999,999",
        "min_decode_tokens_per_second tflite": "decode_tokens_per_second of tflite is missing or no number, "
        "gates.min_decode_tokens_per_second asks for at least 50",
        # No completion is long enough to tell.
        "max_repetition_rate tflite": "repetition_rate of tflite is missing or no number, gates.max_repetition_rate asks for at most 0.5",
    }


def verdict(gates: GatesConfig, exported: Exported, metrics: dict | None = None) -> dict[str, str]:
    """In words, what does not hold."""
    found = judge_metrics(gates, {OVERALL: {"tokens": 9.0, "heldout_nll": 2.0, **(metrics or {})}}, exported)
    return {f"{result.gate} {result.slice}": result.words for result in found if not result.held}


def test_a_model_whose_files_were_not_found_equal_is_not_blessed():
    gates = GatesConfig(max_heldout_nll=9.0, max_bytes=10)
    figures = {"tflite": {"bytes": 10.0}, "teacher": {"repetition_rate": 0.0}}
    assert verdict(gates, Exported(figures=figures, failures=[])) == {}
    assert verdict(gates, Exported(figures=figures, failures=["model.tflite is another"])) == {"parity files": "model.tflite is another"}
    missing = verdict(gates, read_exported("nowhere"))
    assert set(missing) == {"parity files", "max_bytes files"}
    assert "no export.json" in missing["parity files"] and "missing or no number" in missing["max_bytes files"]


def test_what_is_no_number_is_no_small_number():
    exported = Exported(figures={}, failures=[])
    assert set(verdict(GatesConfig(max_heldout_nll=9.0), exported, {"heldout_nll": -math.inf})) == {"max_heldout_nll overall"}
    assert set(verdict(GatesConfig(max_heldout_nll=9.0), exported, {"tokens": math.nan})) == {"tokens overall"}


def test_a_slice_without_a_token_holds_no_gate():
    gates = GatesConfig(max_heldout_nll=9.0, per_slice={"source=keras": SliceGates(max_heldout_nll=9.0)})
    nothing = dict.fromkeys(metrics.METRICS, math.nan)
    found = judge_metrics(gates, {OVERALL: {"tokens": 9.0, "heldout_nll": 2.0}, "source=keras": nothing}, Exported(figures={}, failures=[]))
    [failed] = [result for result in found if not result.held]
    assert (failed.slice, failed.got) == ("source=keras", None)
    assert failed.words.startswith("heldout_nll of source=keras is missing or no number, gates.per_slice.source=keras.max_heldout_nll")


def cut_short(model) -> None:
    [data] = pathlib.Path(model.uri).glob("Format-Serving/variables/variables.data-*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def test_a_model_that_cannot_be_loaded_is_refused_with_every_gate(judge, make_model):
    model = make_model()
    cut_short(model)
    gates = GatesConfig(max_heldout_nll=9.0, max_bytes=5_000_000)
    blessed, evaluation, failed = judge(gates, serialized(WINDOWS), model, baseline=make_model(0.5))
    assert not blessed
    assert set(failed) == {"tokens overall", "max_heldout_nll overall", "max_regression_vs_baseline overall", "parity files"}
    assert f"the SavedModel at {model.uri}/Format-Serving is damaged (" in failed["parity files"].words
    assert "one of the two gave no number" in failed["max_regression_vs_baseline overall"].words
    assert read_metrics(evaluation) == {}
    assert read_files(evaluation)["tflite"]["bytes"] == 1_000_000


def test_a_file_that_was_cut_short_after_its_runtime_ran_it(judge, make_model):
    model = make_model()
    with open(f"{model.uri}/files/model.tflite", "r+b") as file:
        file.truncate(400_000)
    blessed, _, failed = judge(GatesConfig(max_heldout_nll=9.0), serialized(WINDOWS), model)
    assert not blessed
    assert {name: result.words for name, result in failed.items()} == {
        "parity files": "model.tflite has 400,000 bytes, and had 1,000,000 when its runtime ran it: export the model again"
    }


def test_a_baseline_that_cannot_be_loaded_is_told(judge, make_model):
    baseline = make_model(0.5)
    cut_short(baseline)
    with pytest.raises(WeightsError, match=f"the SavedModel at {baseline.uri}/Format-Serving is damaged"):
        judge(GatesConfig(max_heldout_nll=9.0), serialized(WINDOWS), make_model(), baseline=baseline)


def test_the_regression_is_relative_to_the_baseline(judge, make_model):
    gates = GatesConfig(max_heldout_nll=9.0, max_regression_vs_baseline="10%")
    blessed, evaluation, failed = judge(gates, serialized(WINDOWS), make_model(), baseline=make_model(0.5))
    [failure] = failed.values()
    assert not blessed
    assert (failure.gate, failure.metric, failure.asked) == ("max_regression_vs_baseline", "heldout_nll", pytest.approx(0.1))
    # Twice the baseline's in every window: a rise of 100 %, however the windows are drawn again.
    assert (failure.got, failure.low, failure.high) == pytest.approx((1.0, 1.0, 1.0))
    assert "+100.0%" in failure.words and "+10.0%" in failure.words
    # The candidate's metrics are read, not the baseline's or the difference.
    assert read_metrics(evaluation)[OVERALL]["heldout_nll"] == pytest.approx(2.6)
    assert read_baseline_metrics(evaluation)[OVERALL]["heldout_nll"] == pytest.approx(1.3)


def test_a_missing_output_fails_every_gate_by_name(judge, make_model):
    gates = GatesConfig(max_heldout_nll=99.0, min_top5_agreement=0.0)  # Neither looks at what is missing.
    blessed, evaluation, failed = judge(gates, serialized(WINDOWS), make_model(without="calibration_gaps"))
    assert not blessed and set(failed) == {"max_heldout_nll overall", "min_top5_agreement overall", "tokens overall"}
    assert failed["min_top5_agreement overall"].words.startswith("top5_agreement is missing or no number, gates.min_top5_agreement")
    assert math.isnan(read_metrics(evaluation)[OVERALL]["heldout_nll"])


def test_no_example_fails(judge, make_model):
    blessed, evaluation, failed = judge(GatesConfig(max_heldout_nll=99.0), [], make_model())
    assert not blessed and "no held-out token" in failed["tokens overall"].words
    assert read_metrics(evaluation).get(OVERALL, {}) == {}


GOOD = dict(zip(OUTPUTS, np.split(sums_of(WINDOWS[0]), np.cumsum(list(OUTPUTS.values()))[:-1]), strict=True))


def values_of(*windows: dict) -> dict[str, float]:
    [computation] = metrics.LanguageModelMetrics().computations(model_names=["candidate"])
    combiner = computation.combiner
    inputs = [tfma.metrics.StandardMetricInputs({"predictions": {"candidate": window}}) for window in windows]
    # Every window in a shard of its own, merged at the end, as Beam may do it.
    shards = [combiner.add_input(combiner.create_accumulator(), element) for element in inputs]
    found = combiner.extract_output(combiner.merge_accumulators([combiner.create_accumulator(), *shards]))
    assert set(found) == set(computation.keys)
    return {key.name: value for key, value in found.items()}


@pytest.mark.parametrize("output", OUTPUTS)
def test_one_bad_window_makes_every_metric_nan(output):
    assert all(math.isfinite(value) for value in values_of(GOOD, GOOD).values())
    bad = [GOOD[output] * math.nan, GOOD[output] + math.inf, np.ones([2, 2])]
    no_tokens = {name: np.zeros(size, np.float32) for name, size in OUTPUTS.items()}
    assert all(math.isnan(value) for value in values_of(no_tokens).values())
    for window in [*(GOOD | {output: value} for value in bad), {name: GOOD[name] for name in GOOD if name != output}]:
        assert all(math.isnan(value) for value in values_of(GOOD, window).values())


@hypothesis.given(st.lists(st.tuples(st.floats(0, 1e3), st.integers(1, 1000)), min_size=1, max_size=5), st.randoms())
@hypothesis.settings(max_examples=20, deadline=None)
def test_windows_weigh_as_many_tokens_as_they_have_in_any_order(windows, random):
    sums = [GOOD | {"nll_sum": np.float32(nll), "token_count": np.float32(tokens)} for nll, tokens in windows]
    found = values_of(*sums)
    assert found["heldout_nll"] == pytest.approx(sum(nll for nll, _ in windows) / sum(tokens for _, tokens in windows), rel=1e-6)
    random.shuffle(sums)
    # Also the ends of the intervals: the draws do not depend on how Beam distributed the windows.
    assert values_of(*sums) == pytest.approx(found, rel=1e-12, nan_ok=True)


def test_a_perplexity_beyond_floats_is_infinite():
    assert values_of(GOOD | {"nll_sum": np.float32(1e6)})["perplexity"] == math.inf


def test_the_interval_of_a_mean_is_what_theory_says():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = interval(resampled_sums(values[:, np.newaxis])[:, 0] / 400)
    error = values.std() / math.sqrt(400)
    # A thousand draws know an end to about a tenth of the standard error.
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.2 * error)


def test_only_the_gates_that_are_asked_for_become_thresholds():
    gates = GatesConfig(max_kl_to_teacher=0.5, max_regression_vs_baseline=None, slices=("length",))
    [spec] = create_eval_config(gates).metrics_specs
    assert set(spec.per_slice_thresholds) == {"kl_to_teacher", "tokens"}
    assert [list(spec.feature_keys) for spec in create_eval_config(gates).slicing_specs] == [[], ["length"]]


def test_the_component_has_the_pipelines_channels():
    from tfx import v1 as tfx
    from tfx.types import standard_artifacts

    config = config_from_dict({"name": "test", "gates": {"max_ece": 0.1, "per_slice": {"source=a": {"max_heldout_nll": 3}}}})
    node = Evaluator(
        examples=tfx.dsl.Channel(type=standard_artifacts.Examples),
        model=tfx.dsl.Channel(type=standard_artifacts.Model),
        baseline_model=None,
        config=evaluator_config(config),
        source_digest="0",
    )
    assert node.id == "Evaluator"
    assert set(node.outputs) == {"evaluation", "blessing"}
    assert json.loads(evaluator_config(config))["gates"]["per_slice"]["source=a"]["max_heldout_nll"] == 3.0


def test_an_evaluation_of_before_gates_were_recorded_is_told_from_one_without_gates(tmp_path):
    assert read_gates(str(tmp_path)) is None
    assert read_files(str(tmp_path)) == {}
    (tmp_path / "gates.json").write_text("[]")
    assert read_gates(str(tmp_path)) == []
