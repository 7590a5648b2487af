"""What a model must reach to be blessed, and so to be pushed."""

import dataclasses
from collections.abc import Mapping

from gemma_tf_distill.config.checking import check

SLICE_FEATURES = ("source", "length")
"""Features that all held-out windows have, by which metrics can be shown: `source` of `corpus.source_field`, and `length`, a bucket of
tokens. Those in `corpus.features` come beside them."""

# Shorter windows are too few tokens to be told from each other.
_SHORTEST_BUCKET = 16


def length_bucket(length: int) -> str:
    """The bucket of a window of `length` tokens, padding not counted: `1-16`, `17-32`, `33-64` and so on."""
    end = max(_SHORTEST_BUCKET, 1 << (length - 1).bit_length())
    return f"{1 if end == _SHORTEST_BUCKET else end // 2 + 1}-{end}"


def _length_buckets(window: int) -> list[str]:
    return list(dict.fromkeys(length_bucket(length) for length in range(1, window + 1)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceGates:
    """Gates on the metrics of some held-out text. A gate that is none is not asked.

    Attributes:
      max_perplexity_vs_teacher: the student's perplexity over the teacher's, on the same tokens.
      max_heldout_nll: nats a token.
      max_bits_per_byte: bits that the model needs for a byte of the text, which vocabularies have in common.
      max_kl_to_teacher: nats a token, over the teacher's top k words and one tail bucket.
      max_ece: expected calibration error, between 0 and 1.
      min_top1_agreement: share of tokens where student and teacher rank the same word first.
      min_top5_agreement: share of tokens where the teacher's first word is among the student's first five.
    """

    max_perplexity_vs_teacher: float | None = None
    max_heldout_nll: float | None = None
    max_bits_per_byte: float | None = None
    max_kl_to_teacher: float | None = None
    max_ece: float | None = None
    min_top1_agreement: float | None = None
    min_top5_agreement: float | None = None

    @property
    def asked(self) -> dict[str, float]:
        """The metric gates that are asked, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(SliceGates)}
        return {name: value for name, value in values.items() if value is not None}

    def check_metrics(self, key: str) -> None:
        """Raises ConfigError for a limit that no metric can have, and for limits that contradict; `key` is the section's name."""
        above = {"max_perplexity_vs_teacher": 1, "max_heldout_nll": 0, "max_bits_per_byte": 0, "max_kl_to_teacher": 0}
        for name, value in self.asked.items():
            if name in above:
                check(value > above[name], f"{key}.{name}", f"above {above[name]} or null", value)
            else:
                check(0 <= value <= 1, f"{key}.{name}", "between 0 and 1 or null", value)
        top1, top5 = self.min_top1_agreement, self.min_top5_agreement
        if top1 is not None and top5 is not None:
            limit = f"at least {key}.min_top1_agreement ({top1:g}), since a word that is ranked first is among the first five"
            check(top5 >= top1, f"{key}.min_top5_agreement", limit, top5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatesConfig(SliceGates):
    """What a model must reach on the held-out split, and its files in their own runtimes. A gate that is none is not asked.

    Attributes, beside those of `SliceGates`, which are asked of the whole split:
      max_regression_vs_baseline: how much the held-out NLL may rise over the latest blessed model's, as a fraction or `2%`; bits per byte
        of the same text where that model has other words.
      max_bytes: of every exported format (all files of a folder together): one number for each, or by format, `{tflite: 30000000}`.
      min_decode_tokens_per_second: of every exported format in its own runtime, on the machine that exports, likewise.
      max_repetition_rate: share of the 4-grams of tokens that a greedy completion of `export.prompts` had before, of every exported
        format likewise.
      slices: features by which the metrics are also shown, of `source`, `length` and those in `corpus.features`.
      per_slice: gates of single slices, `source=docs`, `length=65-128` or `language=de`, a section each.
    """

    max_regression_vs_baseline: float | str | None = 0.02
    max_bytes: int | Mapping[str, int] | None = None
    min_decode_tokens_per_second: float | Mapping[str, float] | None = None
    max_repetition_rate: float | Mapping[str, float] | None = None
    slices: tuple[str, ...] = ("source",)
    per_slice: Mapping[str, SliceGates] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_metrics("gates")
        names = [field.name for field in dataclasses.fields(SliceGates)]
        check(bool(self.asked), "gates", f"at least one of {', '.join(names[:-1])} and {names[-1]}", None)
        check(
            self.max_regression_vs_baseline is None or (self.regression is not None and 0 <= self.regression < 1),
            "gates.max_regression_vs_baseline",
            "a fraction such as 0.02, a percentage below 100 such as 2%, or null",
            self.max_regression_vs_baseline,
        )
        for name in ("max_bytes", "min_decode_tokens_per_second", "max_repetition_rate"):
            for format, limit in self.of_formats(name, ("",)).items():
                key = f"gates.{name}.{format}".rstrip(".")
                if name == "max_repetition_rate":
                    check(0 <= limit <= 1, key, "between 0 and 1 or null", limit)
                else:
                    check(limit > 0, key, "above 0 or null", limit)
        for name, gates in self.per_slice.items():
            feature, separator, value = name.partition("=")
            check(bool(separator and value), "gates.per_slice", "a section of slices such as source=docs", name)
            check(
                feature in self.slices,
                f"gates.per_slice.{name}",
                f"of a feature that is in gates.slices ({', '.join(self.slices)})",
                feature,
            )
            check(bool(gates.asked), f"gates.per_slice.{name}", "a section of at least one gate", {})
            gates.check_metrics(f"gates.per_slice.{name}")

    def of_formats(self, gate: str, formats: tuple[str, ...]) -> dict[str, float]:
        """The limits of a gate on files by format: one number is asked of all `formats`, a section of those that it names."""
        limits = getattr(self, gate)
        if limits is None:
            return {}
        return dict(limits) if isinstance(limits, Mapping) else dict.fromkeys(formats, limits)

    def check_slices(self, features: tuple[str, ...]) -> None:
        """Raises ConfigError for `slices` by what windows do not have; `features` are those of `corpus.features`."""
        known = (*SLICE_FEATURES, *features)
        for feature in self.slices:
            expectation = f"a list of features that examples have ({', '.join(known)}; corpus.features adds others)"
            check(feature in known, "gates.slices", expectation, list(self.slices))
        check(len(set(self.slices)) == len(self.slices), "gates.slices", "a list without doubles", list(self.slices))

    def check_export(self, formats: tuple[str, ...], prompts: tuple[str, ...], window: int) -> None:
        """Raises ConfigError for gates on formats that are not exported, and on slices that windows of `window` tokens can't have."""
        for name in ("max_bytes", "min_decode_tokens_per_second", "max_repetition_rate"):
            for format in self.of_formats(name, formats):
                check(format in formats, f"gates.{name}", f"of formats in export.formats ({', '.join(formats)})", format)
        check(
            self.max_repetition_rate is None or bool(prompts),
            "gates.max_repetition_rate",
            "null where export.prompts is empty, since nothing is completed then",
            self.max_repetition_rate,
        )
        buckets = _length_buckets(window)
        for name in self.per_slice:
            feature, _, value = name.partition("=")
            check(
                feature != "length" or value in buckets,
                f"gates.per_slice.{name}",
                f"a length that windows of {window} tokens have ({', '.join(buckets)})",
                value,
            )

    @property
    def regression(self) -> float | None:
        """`max_regression_vs_baseline` as a fraction; none where there is no such gate or it is not a number."""
        value = self.max_regression_vs_baseline
        try:
            return float(value[:-1]) / 100 if isinstance(value, str) and value.endswith("%") else None if value is None else float(value)
        except ValueError:
            return None
