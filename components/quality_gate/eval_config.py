"""What the Evaluator measures and what a model must reach: the config's gates as TFMA's EvalConfig."""

import json

# tensorflow_model_analysis.EvalConfig exists only once tfx was imported; its module always does.
from tensorflow_model_analysis.proto import config_pb2

from components.quality_gate import metrics
from gemma_tf_distill.config import GatesConfig

SIGNATURE = "eval"
SPLIT = "heldout"


def _thresholds(gates: GatesConfig) -> dict[str, config_pb2.MetricThreshold]:
    """The threshold of every metric that is gated, by the metric's name."""
    bounds = {
        metrics.HeldoutNll.NAME: ("upper_bound", gates.max_heldout_nll),
        metrics.PerplexityVsTeacher.NAME: ("upper_bound", gates.max_perplexity_vs_teacher),
        metrics.KlToTeacher.NAME: ("upper_bound", gates.max_kl_to_teacher),
        metrics.Top1Agreement.NAME: ("lower_bound", gates.min_top1_agreement),
        # Always asked: without it, a split of no tokens would pass whatever gates happen not to look at it.
        metrics.Tokens.NAME: ("lower_bound", 1.0),
    }
    thresholds = {
        name: config_pb2.MetricThreshold(value_threshold=config_pb2.GenericValueThreshold(**{side: {"value": bound}}))
        for name, (side, bound) in bounds.items()
        if bound is not None
    }
    if gates.regression is not None:
        thresholds.setdefault(metrics.HeldoutNll.NAME, config_pb2.MetricThreshold()).change_threshold.CopyFrom(
            config_pb2.GenericChangeThreshold(
                direction=config_pb2.MetricDirection.LOWER_IS_BETTER,
                relative={"value": gates.regression},
            )
        )
    return thresholds


def create_eval_config(gates: GatesConfig, source_digest: str = "") -> config_pb2.EvalConfig:
    """The Evaluator's config: the metrics of `metrics.METRICS`, overall and by slice, with thresholds on the overall slice.

    Args:
      gates: the config's gates. The regression gate compares `heldout_nll` with the baseline's, relative to it, and is not
        asked where there is no baseline.
      source_digest: of the metrics' code, so that changed code misses the Evaluator's cache.
    """
    thresholds = _thresholds(gates)
    return config_pb2.EvalConfig(
        # A Keras 3 model is no tf.keras model to TFMA: it is judged as what it is exported as, by its signature.
        model_specs=[config_pb2.ModelSpec(model_type="tf_generic", signature_name=SIGNATURE)],
        slicing_specs=[config_pb2.SlicingSpec(), *(config_pb2.SlicingSpec(feature_keys=[feature]) for feature in gates.slices)],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[
                    config_pb2.MetricConfig(
                        class_name=metric.__name__,
                        module=metric.__module__,
                        config=json.dumps({"name": metric.NAME, "source_digest": source_digest}),
                        # A plain `threshold` would be asked of every slice, however few tokens it has.
                        per_slice_thresholds=[
                            config_pb2.PerSliceMetricThreshold(slicing_specs=[config_pb2.SlicingSpec()], threshold=threshold)
                            for name, threshold in thresholds.items()
                            if name == metric.NAME
                        ],
                    )
                    for metric in metrics.METRICS
                ]
            )
        ],
        options=config_pb2.Options(include_default_metrics={"value": False}),
    )
