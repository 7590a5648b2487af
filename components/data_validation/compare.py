"""What TFDV says of documents and prompts, by the training documents and the limits of a config."""

import dataclasses
from collections.abc import Iterator, Sequence

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList

from gemma_tf_distill.config import DOCUMENT_FEATURES, ComparatorConfig, DataValidationConfig
from gemma_tf_distill.report.distances import Distance

# Prompts have no source: what a schema asks of it holds where documents are.
DOCUMENTS, SERVING = "DOCUMENTS", "SERVING"
# Both distances end at 1. TFDV computes none without a limit, and this one is never broken.
_ONLY_MEASURED = 2.0

_NAMES = {"JENSEN_SHANNON_DIVERGENCE": "Jensen-Shannon divergence", "L_INFTY": "infinity norm"}
_OF = {"heldout": "held-out documents", "train": "training documents", "serving": "serving prompts"}
_DISTANCES = (
    anomalies_pb2.AnomalyInfo.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH,
    anomalies_pb2.AnomalyInfo.COMPARATOR_L_INFTY_HIGH,
)


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a comparison came to.

    Attributes:
      anomalies: TFDV's, by split: `heldout` (schema and drift), and with prompts `train` (skew) and `serving` (schema).
      distances: all that were measured, asked or not.
    """

    anomalies: dict[str, anomalies_pb2.Anomalies]
    distances: list[Distance]

    @property
    def words(self) -> list[str]:
        """Each anomaly as a sentence: distances first, each with its limit."""
        others = [
            f"{feature} of {_OF[split]}: {reason.description.strip().rstrip('.')}"
            for split, anomalies in self.anomalies.items()
            for feature, info in sorted(anomalies.anomaly_info.items())
            for reason in info.reason
            if reason.type not in _DISTANCES
        ]
        return [distance.words for distance in self.distances if distance.is_over] + others


def make_schema(train: DatasetFeatureStatisticsList, config: DataValidationConfig, labels: Sequence[str]) -> schema_pb2.Schema:
    """The training documents' schema, with the limits of `config` as its comparators; `labels` are `source` and `corpus.features`.

    Sources that no training document has may make up as much of the held-out documents as a source's share may differ; where that has no
    limit, all of them: a corpus of one document a file has a source for each. Likewise the values of features.
    """
    schema = tfdv.infer_schema(train, infer_feature_shape=True)
    schema.default_environment.extend([DOCUMENTS, SERVING])
    norm = config.drift_comparator.infinity_norm
    for label in labels:
        feature = tfdv.get_feature(schema, label)
        feature.not_in_environment.append(SERVING)
        feature.distribution_constraints.min_domain_mass = 0 if norm is None else 1 - norm
    _set_limits(schema, config, labels, None)
    return schema


def compare(
    schema: schema_pb2.Schema,
    config: DataValidationConfig,
    labels: Sequence[str],
    train: DatasetFeatureStatisticsList,
    heldout: DatasetFeatureStatisticsList,
    serving: DatasetFeatureStatisticsList | None,
) -> Findings:
    """Validates held-out documents and prompts.

    Args:
      schema: of `make_schema`.
      config: the limits.
      labels: `source` and `corpus.features`.
      train: statistics of the training documents.
      heldout: of the held-out ones.
      serving: of prompts, none where there are none.
    """
    measuring = schema_pb2.Schema()
    measuring.CopyFrom(schema)
    _set_limits(measuring, config, labels, _ONLY_MEASURED)
    found = {"heldout": tfdv.validate_statistics(heldout, measuring, environment=DOCUMENTS, previous_statistics=train)}
    if serving is not None:
        found["train"] = tfdv.validate_statistics(train, measuring, environment=DOCUMENTS, serving_statistics=serving)
        found["serving"] = tfdv.validate_statistics(serving, measuring, environment=SERVING)
    distances: list[Distance] = []
    for split, anomalies in found.items():
        anomalies.baseline.CopyFrom(schema)
        distances.extend(_distances(anomalies, _OF["serving" if split == "train" else split]))
    return Findings(found, distances)


def _set_limits(schema: schema_pb2.Schema, config: DataValidationConfig, labels: Sequence[str], unasked: float | None) -> None:
    """Writes the limits into a schema; `unasked` stands for those that the config does not ask for."""
    for name, comparator, features in (
        ("drift_comparator", config.drift_comparator, (*labels, *DOCUMENT_FEATURES)),
        ("skew_comparator", config.skew_comparator, DOCUMENT_FEATURES),
    ):
        for feature in features:
            for measure, limit in _limits(comparator, features, feature, feature in labels).items():
                limit = unasked if limit is None else limit
                if limit is not None:
                    getattr(getattr(tfdv.get_feature(schema, feature), name), measure).threshold = limit


def _limits(comparator: ComparatorConfig, features: tuple[str, ...], feature: str, is_label: bool) -> dict[str, float | None]:
    limits = {"jensen_shannon_divergence": comparator.divergence_limits(features).get(feature)}
    # A norm of categories, which numbers do not have.
    return {**limits, "infinity_norm": comparator.infinity_norm} if is_label else limits


def _distances(anomalies: anomalies_pb2.Anomalies, of: str) -> Iterator[Distance]:
    for info in anomalies.drift_skew_info:
        for measured in (*info.drift_measurements, *info.skew_measurements):
            measure = _NAMES[anomalies_pb2.DriftSkewInfo.Measurement.Type.Name(measured.type)]
            limit = None if measured.threshold == _ONLY_MEASURED else measured.threshold
            yield Distance(info.path.step[-1], of, measure, measured.value, limit)
