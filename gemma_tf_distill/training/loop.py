"""The loop around the step: checkpoints that resume to the same bits, and a look at the run now and then."""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, QuantizationConfig, TrainingConfig
from gemma_tf_distill.config.strategy import check_share
from gemma_tf_distill.data.batch_processor import prefetch_to_device
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.monitoring.devices import Devices
from gemma_tf_distill.monitoring.distillation_metrics import DistillationMetrics
from gemma_tf_distill.monitoring.hardware import HardwareMonitor
from gemma_tf_distill.monitoring.input_wait import InputWait
from gemma_tf_distill.training.divergence import DivergenceGuard
from gemma_tf_distill.training.learner import make_learner
from gemma_tf_distill.training.log_lines import LogLines
from gemma_tf_distill.training.run import Run
from gemma_tf_distill.training.strategies import is_chief
from gemma_tf_distill.training.utilization import chip_under, work_of
from gemma_tf_distill.xla.optimizer import XLAOptimizer


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
    learner = make_learner(
        student,
        run,
        batches,
        training=training,
        distillation=distillation,
        total_steps=total_steps,
        teacher=teacher,
        kept_layers=kept_layers,
        seed=seed,
        quantization=quantization,
        attention=attention,
        xla=xla,
        strategy=strategy,
    )
    checkpoints = learner.checkpoints(strategy, run.checkpoints)
    checkpoints.restore()
    begun = step = learner.steps_taken
    checkpoints.agree(begun)
    guard = DivergenceGuard(
        run.name,
        total_steps,
        student.backbone.vocabulary_size,
        section="training" if quantization is None else "quantization",
        learning_rate=training.learning_rate,
    )
    if strategy.num_replicas_in_sync == 1:
        data = prefetch_to_device(batches(begun).take(total_steps - begun))
    else:
        data = strategy.distribute_datasets_from_function(lambda context: batches(begun, context))
    # Several steps in one call ask for their batches themselves.
    waiting = InputWait(data) if steps_per_execution == 1 else None
    hardware = None
    if training.monitor:
        chip = chip_under(strategy)
        hardware = HardwareMonitor(devices=Devices(None if chip is None else chip.hbm_bytes), several_steps=steps_per_execution > 1)
    lines = LogLines(run, total_steps=total_steps, chief=is_chief(strategy), hardware=hardware)
    in_step = None if training.teacher_device is not None or not run.learn_from_teacher else teacher
    work = functools.partial(work_of, strategy, student, in_step, training.batch_size) if training.monitor else None
    metrics = DistillationMetrics(work=work)
    wrong_targets = 0.0
    with contextlib.closing(checkpoints), lines, learner.teaching:
        iterator = learner.teaching.over(data if waiting is None else waiting, lambda index: learner.writes_itself(begun + index))
        while step < total_steps:
            done = learner.take(iterator, step, min(steps_per_execution, total_steps - step))
            step += done.steps
            metrics.update_metrics(done.last, done.summed, done.steps)
            wrong_targets += done.summed["wrong_targets"]
            logs = step == begun + done.steps or step % training.log_every == 0 or step == total_steps
            saves = step % training.checkpoint_every == 0 and step < total_steps
            if logs or saves:
                diverged = guard.diverged(step, metrics.last(), float(wrong_targets))
                # What went wrong is shown before it ends the run.
                if logs or diverged:
                    lines.write(step, metrics.read(step, float(learner.optimizer.learning_rate)), waiting)
                if diverged:
                    raise diverged
            if saves:
                checkpoints.save(step)
    if learner.quantized is not None:
        learner.quantized.settle()
