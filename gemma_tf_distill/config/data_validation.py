"""How far held-out documents and serving prompts may be from the training documents."""

import dataclasses
from collections.abc import Mapping

from gemma_tf_distill.config.checking import check

DOCUMENT_FEATURES = ("tokens", "characters", "tokens_per_character", "byte_token_fraction", "unknown_token_fraction")
"""What is measured of every document and prompt, in the student's tokens; `components.data_validation.features` says how."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparatorConfig:
    """Limits on distances between distributions, in TFDV's words. A limit that is none is not asked; its distance is measured all the same.

    Attributes:
      jensen_shannon_divergence: base 2, between 0 (equal) and 1 (nothing in common): one number for every feature, or by feature,
        `{tokens_per_character: 0.1}`; of `DOCUMENT_FEATURES`, and in held-out documents of `source` and those in `corpus.features`.
      infinity_norm: by how much the share of one `source`, or of one value of a feature in `corpus.features`, may differ.
    """

    jensen_shannon_divergence: float | Mapping[str, float] | None = None
    infinity_norm: float | None = None

    def check_limits(self, key: str) -> None:
        """Raises ConfigError for a limit that no distance can have; `key` is the section's name."""
        for feature, limit in self.divergence_limits(("",)).items():
            check(0 <= limit <= 1, f"{key}.jensen_shannon_divergence.{feature}".rstrip("."), "between 0 and 1 or null", limit)
        check(
            self.infinity_norm is None or 0 <= self.infinity_norm <= 1,
            f"{key}.infinity_norm",
            "between 0 and 1 or null",
            self.infinity_norm,
        )

    def check_features(self, key: str, features: tuple[str, ...]) -> None:
        """Raises ConfigError for a limit of no feature in `features`; `key` is the section's name."""
        for feature in self.divergence_limits(()):
            name = f"{key}.jensen_shannon_divergence.{feature}"
            check(feature in features, name, f"of a feature that is compared ({', '.join(features)})", feature)

    def divergence_limits(self, features: tuple[str, ...]) -> dict[str, float]:
        """The limits of the divergence by feature: one number is asked of all `features`, a section of those that it names."""
        limits = self.jensen_shannon_divergence
        if limits is None:
            return {}
        return dict(limits) if isinstance(limits, Mapping) else dict.fromkeys(features, limits)

    @property
    def is_asked(self) -> bool:
        """Whether there is any limit."""
        return bool(self.divergence_limits(("",))) or self.infinity_norm is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataValidationConfig:
    """What TFDV is asked about documents and prompts, before the teacher scores anything.

    Attributes:
      drift_comparator: limits between training and held-out documents.
      skew_comparator: limits between training documents and `serving_prompts`.
      serving_prompts: a file of prompts as they come when the model serves: one a line, or JSONL (`.jsonl`) with the text in
        `corpus.field`; `.gz` is decompressed; local or `gs://`.
      stop_on_anomalies: whether what breaks a limit ends the run; false: it is told as a warning.
    """

    drift_comparator: ComparatorConfig = ComparatorConfig()
    skew_comparator: ComparatorConfig = ComparatorConfig()
    serving_prompts: str | None = None
    stop_on_anomalies: bool = False

    def __post_init__(self) -> None:
        self.drift_comparator.check_limits("data_validation.drift_comparator")
        self.skew_comparator.check_limits("data_validation.skew_comparator")
        check(
            self.skew_comparator.infinity_norm is None,
            "data_validation.skew_comparator.infinity_norm",
            "null, since prompts have no source",
            self.skew_comparator.infinity_norm,
        )
        check(
            self.serving_prompts is None or bool(self.serving_prompts.strip()),
            "data_validation.serving_prompts",
            "the path of a file or null",
            self.serving_prompts,
        )
        check(
            self.serving_prompts is not None or not self.skew_comparator.is_asked,
            "data_validation.serving_prompts",
            "the path of a file, since data_validation.skew_comparator compares training documents with its prompts",
            self.serving_prompts,
        )
        check(
            not self.stop_on_anomalies or self.drift_comparator.is_asked or self.skew_comparator.is_asked,
            "data_validation.stop_on_anomalies",
            "false where neither drift_comparator nor skew_comparator has a limit that could be broken",
            self.stop_on_anomalies,
        )

    def check_features(self, features: tuple[str, ...]) -> None:
        """Raises ConfigError for limits of what documents and prompts do not have; `features` are those of `corpus.features`."""
        self.drift_comparator.check_features("data_validation.drift_comparator", ("source", *features, *DOCUMENT_FEATURES))
        self.skew_comparator.check_features("data_validation.skew_comparator", DOCUMENT_FEATURES)
