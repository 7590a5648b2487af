"""What the Evaluator measures and what a model must reach: the config's gates as TFMA's EvalConfig."""

from collections import defaultdict

# tensorflow_model_analysis.EvalConfig exists only once tfx was imported; its module always does.
from tensorflow_model_analysis.proto import config_pb2

from components.quality_gate import metrics
from gemma_tf_distill.config import GatesConfig

SIGNATURE = "eval"
SPLIT = "heldout"

GATED_METRICS = {
    "max_perplexity_vs_teacher": "perplexity_vs_teacher",
    "max_heldout_nll": "heldout_nll",
    "max_bits_per_byte": "bits_per_byte",
    "max_kl_to_teacher": "kl_to_teacher",
    "max_ece": "ece",
    "min_top1_agreement": "top1_agreement",
    "min_top5_agreement": "top5_agreement",
}
"""The metric that each gate of `SliceGates` looks at."""


def asked_of_slices(gates: GatesConfig) -> dict[str, dict[str, float]]:
    """The limits of metric gates by slice: the empty name for the whole split, and names such as `source=docs`."""
    return {"": gates.asked, **{name: limits.asked for name, limits in gates.per_slice.items()}}


def create_eval_config(gates: GatesConfig) -> config_pb2.EvalConfig:
    """The Evaluator's config: `metrics.METRICS`, overall and by slice, with the thresholds of the slices that have gates.

    Args:
      gates: the config's gates. The regression gate compares `heldout_nll` with the baseline's, relative to it, and is not
        asked where there is no baseline. Gates on files are no metrics and not in here.
    """
    # A plain `threshold` would be asked of every slice, however few tokens it has.
    thresholds: defaultdict[str, list[config_pb2.PerSliceMetricThreshold]] = defaultdict(list)
    for name, limits in asked_of_slices(gates).items():
        for gate, limit in limits.items():
            side = "upper_bound" if gate.startswith("max_") else "lower_bound"
            thresholds[GATED_METRICS[gate]].append(_threshold(name, value_threshold={side: {"value": limit}}))
    # Always asked: without it, a split of no tokens would pass whatever gates happen not to look at it.
    thresholds["tokens"].append(_threshold("", value_threshold={"lower_bound": {"value": 1.0}}))
    if gates.regression is not None:
        change = {"direction": config_pb2.MetricDirection.LOWER_IS_BETTER, "relative": {"value": gates.regression}}
        thresholds["heldout_nll"].append(_threshold("", change_threshold=change))
    metric = metrics.LanguageModelMetrics
    return config_pb2.EvalConfig(
        # A Keras 3 model is no tf.keras model to TFMA: it is judged as what it is exported as, by its signature.
        model_specs=[config_pb2.ModelSpec(model_type="tf_generic", signature_name=SIGNATURE)],
        slicing_specs=[config_pb2.SlicingSpec(), *(config_pb2.SlicingSpec(feature_keys=[feature]) for feature in gates.slices)],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[config_pb2.MetricConfig(class_name=metric.__name__, module=metric.__module__)],
                per_slice_thresholds={
                    name: config_pb2.PerSliceMetricThresholds(thresholds=of_metric) for name, of_metric in thresholds.items()
                },
            )
        ],
        options=config_pb2.Options(include_default_metrics={"value": False}),
    )


def _threshold(name: str, **threshold: dict) -> config_pb2.PerSliceMetricThreshold:
    feature, separator, value = name.partition("=")
    spec = config_pb2.SlicingSpec(feature_values={feature: value}) if separator else config_pb2.SlicingSpec()
    return config_pb2.PerSliceMetricThreshold(slicing_specs=[spec], threshold=config_pb2.MetricThreshold(**threshold))
