"""The section `distillation`: what a student learns from."""

import dataclasses

from gemma_tf_distill.config.checking import check

LAYER_MAPPINGS = ("uniform", "last", "subset", "adaptive")
PROJECTORS = ("identity", "orthogonal", "glorot_uniform")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A number that changes with training, from the first step to the last.

    Attributes:
      start: its value at the first step.
      end: its value at the last.
      shape: `linear`, or `cosine` (half a period: slow at both ends).
    """

    start: float
    end: float
    shape: str = "linear"

    def __post_init__(self) -> None:
        check(self.shape in ("linear", "cosine"), "shape of a schedule", "linear or cosine", self.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenStatesConfig:
    """Learning from the teacher's hidden states between its layers (`LinearPathDistillation`). Needs the teacher while training.

    Attributes:
      weight: of the mean squared error; 0: not used.
      mapping: which layers are compared, as `IntermediateLayerMapping` names them.
      dropout_rate: of the projected states.
      projector: how the projector's kernel begins: `identity` (needs equal widths), `orthogonal` or `glorot_uniform`; none:
        `identity` where the widths are equal, else `orthogonal`.
    """

    weight: float = 0.0
    mapping: str = "uniform"
    dropout_rate: float = 0.0
    projector: str | None = None

    def __post_init__(self) -> None:
        check(self.weight >= 0, "distillation.hidden_states.weight", "at least 0", self.weight)
        check(self.mapping in LAYER_MAPPINGS, "distillation.hidden_states.mapping", f"one of {', '.join(LAYER_MAPPINGS)}", self.mapping)
        check(0 <= self.dropout_rate < 1, "distillation.hidden_states.dropout_rate", "at least 0 and below 1", self.dropout_rate)
        check(
            self.projector in (None, *PROJECTORS),
            "distillation.hidden_states.projector",
            f"{', '.join(PROJECTORS)} or null",
            self.projector,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionMapsConfig:
    """Learning where the teacher looks. Needs the teacher while training.

    Attributes:
      weight: of the mean cosine distance; 0: not used.
      mapping: which layers are compared, as `IntermediateLayerMapping` names them.
    """

    weight: float = 0.0
    mapping: str = "uniform"

    def __post_init__(self) -> None:
        check(self.weight >= 0, "distillation.attention_maps.weight", "at least 0", self.weight)
        check(self.mapping in LAYER_MAPPINGS, "distillation.attention_maps.mapping", f"one of {', '.join(LAYER_MAPPINGS)}", self.mapping)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnPolicyConfig:
    """Learning on the student's own continuations (Agarwal et al. 2024, GKD). Needs the teacher while training.

    Attributes:
      fraction: lambda, the share of the batches that the student continues; 0: none.
      prompt_tokens: tokens of a window that are kept as the prompt; the student writes the others.
      temperature: of the student's sampling.
    """

    fraction: float = 0.0
    prompt_tokens: int = 32
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check(0 <= self.fraction <= 1, "distillation.on_policy.fraction", "between 0 and 1", self.fraction)
        check(self.prompt_tokens >= 1, "distillation.on_policy.prompt_tokens", "at least 1", self.prompt_tokens)
        check(self.temperature > 0, "distillation.on_policy.temperature", "above 0", self.temperature)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """What the student learns from.

    Attributes:
      alpha: weight of the teacher's targets; the hard labels (cross-entropy) have `1 - alpha`. A number or a schedule.
      temperature: softens teacher and student alike (Hinton et al. 2015, section 2; the divergence is scaled by its square). A
        number or a schedule.
      targets: `top_k` (the teacher's k best words, stored once), `sampled` (`draws` words drawn from the teacher, stored once:
        Gemma Team 2025, section 2.2) or `dense` (the whole distribution, which needs the teacher while training).
      top_k: the most words that are stored for a token.
      least_probability: words that the teacher finds less probable are not stored; they belong to the tail, as do all below 4e-5, where
        the store's scale ends.
      draws: words drawn for every token where targets are sampled.
      tail: what becomes of the words outside the top k: one `bucket`, or `renormalise` the top k to a distribution of their own.
      divergence: `forward_kl`, `reverse_kl`, `jensen_shannon` or `total_variation`.
      beta: of the generalised Jensen-Shannon divergence, the teacher's share in the mixture.
      hidden_states: learning from what lies between the layers.
      attention_maps: learning from where the teacher looks.
      on_policy: learning on what the student writes itself.
    """

    alpha: float | Schedule = 0.5
    temperature: float | Schedule = 1.0
    targets: str = "top_k"
    top_k: int = 64
    least_probability: float = 1e-4
    draws: int = 256
    tail: str = "bucket"
    divergence: str = "forward_kl"
    beta: float = 0.5
    hidden_states: HiddenStatesConfig = HiddenStatesConfig()
    attention_maps: AttentionMapsConfig = AttentionMapsConfig()
    on_policy: OnPolicyConfig = OnPolicyConfig()

    def __post_init__(self) -> None:
        for value in _ends(self.alpha):
            check(0 <= value <= 1, "distillation.alpha", "between 0 and 1", value)
        for value in _ends(self.temperature):
            check(value > 0, "distillation.temperature", "above 0", value)
        check(self.targets in ("top_k", "sampled", "dense"), "distillation.targets", "top_k, sampled or dense", self.targets)
        check(self.top_k >= 1, "distillation.top_k", "at least 1", self.top_k)
        check(0 <= self.least_probability < 1, "distillation.least_probability", "at least 0 and below 1", self.least_probability)
        check(1 <= self.draws <= 65_535, "distillation.draws", "between 1 and 65535", self.draws)
        check(self.tail in ("bucket", "renormalise"), "distillation.tail", "bucket or renormalise", self.tail)
        known = ("forward_kl", "reverse_kl", "jensen_shannon", "total_variation")
        check(self.divergence in known, "distillation.divergence", f"one of {', '.join(known)}", self.divergence)
        check(0 < self.beta < 1, "distillation.beta", "between 0 and 1, both excluded", self.beta)
        # Words that were drawn tell how likely each is only by how often it came: that gives a cross-entropy and nothing else.
        check(
            self.targets != "sampled" or self.divergence == "forward_kl",
            "distillation.divergence",
            "forward_kl where distillation.targets is sampled",
            self.divergence,
        )
        scheduled = isinstance(self.temperature, Schedule)
        check(
            not scheduled or self.targets == "dense" or (self.targets == "top_k" and self.tail == "renormalise"),
            "distillation.temperature",
            "one number (a schedule needs targets: dense, or targets: top_k with tail: renormalise, since the stored mass of the "
            "other words holds for one temperature)",
            self.temperature,
        )

    @property
    def needs_live_teacher(self) -> bool:
        """Whether the teacher has to be there while the student trains."""
        return self.targets == "dense" or max(self.hidden_states.weight, self.attention_maps.weight, self.on_policy.fraction) > 0

    @property
    def stored_temperature(self) -> float:
        """The temperature at which targets of the training split are stored: 1 where it is scheduled."""
        return 1.0 if isinstance(self.temperature, Schedule) else self.temperature


def _ends(value: float | Schedule) -> tuple[float, ...]:
    return (value.start, value.end) if isinstance(value, Schedule) else (value,)
