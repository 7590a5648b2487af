"""The section `training`: how a student is trained, and on what."""

import dataclasses
import re

from gemma_tf_distill.config.checking import check
from gemma_tf_distill.config.watching import DivergenceConfig, EarlyStoppingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the student is trained: AdamW, linear warm-up, cosine decay to a tenth.

    Attributes:
      epochs: passes over the training windows; a fraction is allowed.
      batch_size: windows a step.
      accumulation_steps: parts that a batch is cut into, one forward and backward pass each; the update is that of the whole
        batch, with the memory of a part.
      learning_rate: its peak.
      warmup_fraction: share of the steps that the warm-up takes.
      weight_decay: AdamW's, on matrices only.
      clip_norm: global gradient norm above which gradients are scaled down.
      layer_dropout: the rate at which the last layer is left out at the end of training; earlier layers and steps have less
        (`ProgressiveDropout`).
      gradient_checkpointing: `none`, or `blocks`: of each decoder block only its input is kept for the gradient, and the rest is computed
        again.
      precision: `float32`, or `mixed_bfloat16` (bfloat16 compute, float32 weights).
      teacher_device: where a live teacher runs on the next batch while the student trains on this one: a device of TensorFlow's other than
        the student's, such as `GPU:1`; none: inside the student's step.
      optimizer_dtype: of AdamW's two slots, `float32` or `bfloat16`, which halves them.
      control: also train the same student on the same tokens without the teacher.
      checkpoint_every: steps between checkpoints.
      log_every: steps between scalars on TensorBoard and progress lines.
      monitor: also measure updates by group of variables, model FLOPs utilisation, and what host and accelerators do, and show
        hyperparameters and at checkpoints histograms of the weights and what the student writes.
      early_stopping: keep the student that is best on the held-out split, and end when none gets better; none: the last one is kept.
      divergence: what is done about a loss that is no number, or jumps.
      profile_steps: the first and the last step of a profile for TensorBoard, counted from 1, of training in float; none: no profile.
      profiler_port: where TensorBoard can capture a profile while training goes on; none: nowhere.
    """

    epochs: float = 1.0
    batch_size: int = 16
    accumulation_steps: int = 1
    learning_rate: float = 5e-4
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    layer_dropout: float = 0.0
    gradient_checkpointing: str = "none"
    precision: str = "float32"
    teacher_device: str | None = None
    optimizer_dtype: str = "float32"
    control: bool = True
    checkpoint_every: int = 50
    log_every: int = 5
    monitor: bool = True
    early_stopping: EarlyStoppingConfig | None = None
    divergence: DivergenceConfig = dataclasses.field(default_factory=DivergenceConfig)
    profile_steps: tuple[int, ...] | None = None
    profiler_port: int | None = None

    def __post_init__(self) -> None:
        check(self.epochs > 0, "training.epochs", "above 0", self.epochs)
        for name in ("batch_size", "accumulation_steps", "checkpoint_every", "log_every"):
            check(getattr(self, name) >= 1, f"training.{name}", "at least 1", getattr(self, name))
        check(
            self.batch_size % self.accumulation_steps == 0,
            "training.accumulation_steps",
            f"a divisor of training.batch_size ({self.batch_size})",
            self.accumulation_steps,
        )
        check(0 <= self.layer_dropout < 1, "training.layer_dropout", "at least 0 and below 1", self.layer_dropout)
        check(self.learning_rate > 0, "training.learning_rate", "above 0", self.learning_rate)
        check(0 <= self.warmup_fraction <= 1, "training.warmup_fraction", "between 0 and 1", self.warmup_fraction)
        check(self.weight_decay >= 0, "training.weight_decay", "at least 0", self.weight_decay)
        check(self.clip_norm > 0, "training.clip_norm", "above 0", self.clip_norm)
        check(
            self.gradient_checkpointing in ("none", "blocks"),
            "training.gradient_checkpointing",
            "none or blocks",
            self.gradient_checkpointing,
        )
        check(self.precision in ("float32", "mixed_bfloat16"), "training.precision", "float32 or mixed_bfloat16", self.precision)
        check(
            self.teacher_device is None or re.fullmatch(r"(CPU|GPU|TPU):\d+", self.teacher_device) is not None,
            "training.teacher_device",
            "a device such as GPU:1, CPU:0 or TPU:1, or null",
            self.teacher_device,
        )
        window = self.profile_steps
        check(
            window is None or (len(window) == 2 and 1 <= window[0] <= window[1]),
            "training.profile_steps",
            "the first and the last step to profile, such as [10, 14], or null",
            None if window is None else list(window),
        )
        port = self.profiler_port
        check(port is None or 1024 <= port <= 65535, "training.profiler_port", "between 1024 and 65535, such as 6009, or null", port)
        check(self.optimizer_dtype in ("float32", "bfloat16"), "training.optimizer_dtype", "float32 or bfloat16", self.optimizer_dtype)
