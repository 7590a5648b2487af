"""The loop around the step: checkpoints that resume to the same bits, TensorBoard scalars, progress."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, QuantizationConfig, TrainingConfig
from gemma_tf_distill.config.strategy import check_share
from gemma_tf_distill.data.batch_processor import prefetch_to_device
from gemma_tf_distill.data.examples import model_inputs
from gemma_tf_distill.errors import ConfigError, UserError
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.monitoring.input_wait import InputWait
from gemma_tf_distill.monitoring.progress import progress, warn
from gemma_tf_distill.quantization.apply import ModelQuantization
from gemma_tf_distill.training.checkpoints import Checkpoints
from gemma_tf_distill.training.execution import Execution
from gemma_tf_distill.training.layer_pairs import LayerPairs
from gemma_tf_distill.training.on_policy import OnPolicySampler
from gemma_tf_distill.training.optimizers import make_optimizer
from gemma_tf_distill.training.strategies import is_chief
from gemma_tf_distill.training.teacher_ahead import TeacherAhead, TeacherInStep
from gemma_tf_distill.training.trainer import DistillationTrainer
from gemma_tf_distill.xla.optimizer import XLAOptimizer

# Of which `adaptive` mappings compare attention patterns, all layers' at once.
_CALIBRATION_WINDOWS = 4


class DivergenceError(UserError):
    """The loss is no longer a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run.

    Attributes:
      name: `student` or `control`, as progress lines show it.
      learn_from_teacher: off for the control.
      checkpoints: the folder that holds this run's checkpoints until it is done.
      tensorboard: the folder of its event files.
    """

    name: str
    learn_from_teacher: bool
    checkpoints: str
    tensorboard: str


def steps_for(config: TrainingConfig, windows: int) -> int:
    """Optimizer steps that `config.epochs` passes over `windows` windows take, at least 1."""
    return max(1, math.ceil(config.epochs * windows / config.batch_size))


def fit(
    student: Gemma,
    run: Run,
    batches: Callable[..., tf.data.Dataset],
    *,
    training: TrainingConfig,
    distillation: DistillationConfig,
    total_steps: int,
    teacher: Gemma | None = None,
    kept_layers: Sequence[int] | None = None,
    seed: int = 0,
    quantization: QuantizationConfig | None = None,
    attention: EfficientAttention | None = None,
    xla: XLAOptimizer | None = None,
    strategy: tf.distribute.Strategy | None = None,
    steps_per_execution: int = 1,
) -> None:
    """Trains `student` in place, from the run's last checkpoint where there is one.

    Args:
      student: the model, at its initial weights.
      run: names and folders.
      batches: from the number of batches to leave out to the batches that follow; where several replicas share them also given a process's
        `tf.distribute.InputContext`, for its share (`TPUBatchProcessor.dataset_for`).
      training: its config.
      distillation: its config.
      total_steps: optimizer steps in all, those before a resumption included.
      teacher: over the student's vocabulary, where `distillation.needs_live_teacher`.
      kept_layers: the teacher's layers that the student began as, where it did.
      seed: of dropouts, projectors and the student's own words.
      quantization: with a scheme: the student learns as it will be stored, and its matrices lie on their lattices at the end.
      attention: how student and live teacher compute theirs; none: as KerasHub does.
      xla: what compiles a step; none: whole steps, without flags.
      strategy: whose replicas share each batch, and under whose scope student and teacher were made; none: one device.
      steps_per_execution: steps that one call takes, a divisor of the steps between checkpoints and between log lines.

    Raises:
      ConfigError: if a layer mapping, the prompt length, the quantization, the batch or the teacher's device does not fit, or processes
        would resume apart.
      DivergenceError: if the loss is not finite, or stored targets are not numbers or of words that the student does not have; nothing
        that learned from them is saved.
      WeightsError: if a weight to be quantised is not a number.
    """
    strategy = tf.distribute.get_strategy() if strategy is None else strategy
    check_share(training, strategy.num_replicas_in_sync)
    quantized = None if quantization is None else ModelQuantization(student, quantization)
    pairs, own_words = LayerPairs(), None
    if run.learn_from_teacher and teacher is not None:
        tokens = next(iter(batches(0).take(1)))["tokens"]
        calibration = model_inputs(tokens[:_CALIBRATION_WINDOWS])
        with strategy.scope():
            pairs = LayerPairs.of(distillation, teacher, student, seed=seed, kept_layers=kept_layers, calibration=calibration)
        if distillation.on_policy.fraction:
            own_words = OnPolicySampler(student, distillation.on_policy, tokens.shape[1], seed, quantized)

    teaching = TeacherInStep(teacher)
    if run.learn_from_teacher and training.teacher_device is not None:
        if teacher is None:
            raise ConfigError(f"training.teacher_device is {training.teacher_device}, but there is no live teacher: set it to null")
        teaching = TeacherAhead(
            teacher,
            training.teacher_device,
            student,
            distillation=distillation,
            pairs=pairs,
            parts=training.accumulation_steps,
            attention=attention,
            xla=xla,
        )

    def make_trainer(distillation: DistillationConfig) -> DistillationTrainer:
        return DistillationTrainer(
            training,
            distillation,
            learn_from_teacher=run.learn_from_teacher,
            total_steps=total_steps,
            pairs=pairs,
            seed=seed,
            quantization=quantized,
            attention=attention,
            xla=xla,
        )

    trainer = make_trainer(distillation)
    # What the student wrote is no text to learn by heart: only the teacher's opinion of it counts.
    own_trainer = make_trainer(dataclasses.replace(distillation, alpha=1.0))

    with strategy.scope():
        optimizer = make_optimizer(training, total_steps, trainer.trainable_variables(teaching.teacher, student))
    checkpoints = Checkpoints(
        strategy,
        run.checkpoints,
        backbone=student.backbone,
        optimizer=optimizer,
        projectors=pairs.trainable_variables,
        quantization=[] if quantized is None else quantized.variables,
    )
    checkpoints.restore()
    begun = step = int(optimizer.iterations.numpy())
    checkpoints.agree(begun)

    def is_own(index: int) -> bool:
        return own_words is not None and own_words.chooses(begun + index)

    words = student.backbone.vocabulary_size
    execute = Execution(strategy, lambda batch: trainer.train_step(batch, teaching.teacher, student, optimizer), words)
    if strategy.num_replicas_in_sync == 1:
        data = prefetch_to_device(batches(begun).take(total_steps - begun))
    else:
        data = strategy.distribute_datasets_from_function(lambda context: batches(begun, context))
    # Several steps in one call ask for their batches themselves.
    waiting = InputWait(data) if steps_per_execution == 1 else None
    wrong_targets = 0.0
    clock = time.monotonic()
    writer = tf.summary.create_file_writer(run.tensorboard) if is_chief(strategy) else tf.summary.create_noop_writer()
    with contextlib.closing(checkpoints), writer.as_default(), teaching:
        iterator = teaching.over(data if waiting is None else waiting, is_own)
        while step < total_steps:
            steps = min(steps_per_execution, total_steps - step)
            if own_words is not None and own_words.chooses(step):
                tokens = next(iterator)["tokens"]
                metrics = own_trainer.train_step(teaching(own_words(tokens, step)), teaching.teacher, student, optimizer)
                metrics["window_tokens"] = tf.size(tokens)
            else:
                metrics = execute(iterator, steps)
                wrong_targets += metrics.pop("wrong_targets")
            step += steps
            logs = step == begun + steps or step % training.log_every == 0 or step == total_steps
            saves = step % training.checkpoint_every == 0 and step < total_steps
            if logs or saves:
                values = {name: float(value) for name, value in metrics.items()}
                if wrong_targets:
                    raise DivergenceError(
                        f"{run.name} met teacher's targets by step {step} of {total_steps} that are not all numbers, or of words beyond "
                        f"its {words}: score the corpus again"
                    )
                if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
                    section = "training" if quantized is None else "quantization"
                    raise DivergenceError(
                        f"the loss of the {run.name} is {values['loss']} at step {step} of {total_steps}: lower {section}.learning_rate "
                        f"(now {training.learning_rate:g}) or raise training.warmup_fraction"
                    )
            if logs:
                window_tokens = int(values.pop("window_tokens"))
                rate = (step - begun) * window_tokens / (time.monotonic() - clock)
                for name, value in values.items():
                    if name not in ("gradient_norm", "tokens"):
                        tf.summary.scalar(f"distill/{name}", value, step)
                tf.summary.scalar("train/gradient_norm", values["gradient_norm"], step)
                tf.summary.scalar("train/learning_rate", float(optimizer.learning_rate), step)
                tf.summary.scalar("data/tokens_per_second", rate, step)
                if waiting is not None and waiting.fraction is not None:
                    tf.summary.scalar("data/wait_fraction", waiting.fraction, step)
                if waiting is not None and (advice := waiting.advice()):
                    warn(f"{run.name}: {advice}")
                writer.flush()
                if is_chief(strategy):
                    progress(run.name, step * window_tokens, total_steps * window_tokens, loss=values["loss"])
            if saves:
                checkpoints.save(step)
    if quantized is not None:
        quantized.settle()
