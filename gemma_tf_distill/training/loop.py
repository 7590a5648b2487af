"""The loop around the step: checkpoints that resume to the same bits, and a look at the run now and then."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, QuantizationConfig, TrainingConfig
from gemma_tf_distill.config.strategy import check_share
from gemma_tf_distill.data.batch_processor import prefetch_to_device
from gemma_tf_distill.errors import ConfigError
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.monitoring.devices import Devices
from gemma_tf_distill.monitoring.distillation_metrics import DistillationMetrics
from gemma_tf_distill.monitoring.hardware import HardwareMonitor
from gemma_tf_distill.monitoring.input_wait import InputWait
from gemma_tf_distill.monitoring.profile_signal import profile_signal
from gemma_tf_distill.monitoring.profile_window import ProfileWindow
from gemma_tf_distill.monitoring.profiler_server import start_profiler_server
from gemma_tf_distill.training.divergence import DivergenceGuard
from gemma_tf_distill.training.early_stopping import EarlyStopping, NoEarlyStopping
from gemma_tf_distill.training.heldout import HeldoutMetrics
from gemma_tf_distill.training.hparams import hyperparameters, write_hyperparameters
from gemma_tf_distill.training.learner import Learner, make_learner
from gemma_tf_distill.training.log_lines import LogLines, check_log_folder
from gemma_tf_distill.training.roll_back import RollBack
from gemma_tf_distill.training.run import Run
from gemma_tf_distill.training.snapshots import Snapshots
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
    evaluate: Callable[[], HeldoutMetrics] | None = None,
) -> int:
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
      evaluate: the student, as it is, on the held-out split, where `training.early_stopping` asks for it.

    Returns:
      The steps taken, those before a resumption included.

    Raises:
      ConfigError: if the folder of event files can't be written to, a layer mapping, the prompt length, the quantization, the batch or the
        teacher's device does not fit, processes would resume apart, early stopping has nothing to look at, the profile's window ends after
        the last step, or the profiler's port can't be used.
      DivergenceError: if the loss is not finite or jumps, as often as `training.divergence` says, or stored targets are not numbers or of
        words that the student does not have; nothing that learned from them is saved.
      WeightsError: if a weight to be quantised is not a number.
    """
    strategy = tf.distribute.get_strategy() if strategy is None else strategy
    check_share(training, strategy.num_replicas_in_sync)
    if training.early_stopping is not None and evaluate is None:
        raise ConfigError("training.early_stopping is set, and fit has nothing to look at: give it an evaluate, or set it to null")
    profile = ProfileWindow(training.profile_steps if is_chief(strategy) else None, run.tensorboard, total_steps, run.name)
    start_profiler_server(training.profiler_port)
    if is_chief(strategy):
        check_log_folder(run.tensorboard)
    roll_back = RollBack(training.divergence, run.name, strategy)
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
        rate_factor=roll_back.rate_factor,
    )
    stopping = NoEarlyStopping()
    if training.early_stopping is not None and evaluate is not None:
        stopping = EarlyStopping(training.early_stopping, evaluate, learner, run, strategy)
    checkpoints = learner.checkpoints(strategy, run.checkpoints, early_stopping=stopping.variables, roll_back=roll_back.variables)
    checkpoints.restore()
    step = learner.steps_taken
    checkpoints.agree(step)
    if roll_back.variables and step == 0:
        checkpoints.save(step)
    guard = DivergenceGuard(
        run.name,
        total_steps,
        student.backbone.vocabulary_size,
        section="training" if quantization is None else "quantization",
        learning_rate=training.learning_rate,
        spike=training.divergence.spike,
    )
    hardware = None
    if training.monitor:
        chip = chip_under(strategy)
        hardware = HardwareMonitor(devices=Devices(None if chip is None else chip.hbm_bytes), several_steps=steps_per_execution > 1)
    lines = LogLines(run, total_steps=total_steps, chief=is_chief(strategy), hardware=hardware)
    in_step = None if training.teacher_device is not None or not run.learn_from_teacher else teacher
    work = functools.partial(work_of, strategy, student, in_step, training.batch_size) if training.monitor else None
    metrics = DistillationMetrics(work=work)
    update_norms = learner.update_norms(strategy).read if training.monitor else dict
    lines_told = 0
    snapshots = None
    if training.monitor and is_chief(strategy):
        snapshots = Snapshots(student, next(iter(batches(0).take(1)))["tokens"], learner.quantized)

    with (
        contextlib.closing(checkpoints),
        contextlib.closing(stopping),
        contextlib.closing(profile),
        profile_signal(run.name, profile.ask),
        lines,
        learner.teaching,
    ):
        opened = _Batches(batches, learner, strategy, step, total_steps, measured=steps_per_execution == 1)
        if snapshots is not None:
            # Also of a run that is resumed: its event files may be in another folder than before.
            values = hyperparameters(run, student, training, distillation, quantization)
            taught = dataclasses.replace(run, learn_from_teacher=True)
            names = hyperparameters(taught, student, training, distillation, quantization or QuantizationConfig())
            lines.write_once(functools.partial(write_hyperparameters, values, names), step)
            if step == 0:
                lines.write_once(snapshots.write)
        while step < total_steps and not stopping.ends:
            with profile.step(step + 1):
                done = learner.take(opened.iterator, step, min(steps_per_execution, total_steps - step))
            step += done.steps
            profile.after(step, done.last["loss"])
            metrics.update_metrics(done.last, done.summed, done.steps)
            opened.wrong_targets += done.summed["wrong_targets"]
            logs = step == opened.begun + done.steps or step % training.log_every == 0 or step == total_steps
            saves = step % training.checkpoint_every == 0 and step < total_steps
            if logs or saves:
                guard.check_targets(step, float(opened.wrong_targets))
                diverged = guard.diverged(step, metrics.last())
                # What went wrong is shown before it ends the run.
                if logs or diverged:
                    # A pass over weights and slots, half the cost of a line: only every second one has it.
                    norms = update_norms() if lines_told % 2 == 0 else {}
                    lines.write(step, norms | metrics.read(step, float(learner.optimizer.learning_rate)), opened.waiting)
                    lines_told += 1
                if diverged:
                    roll_back.answer(diverged, checkpoints)
                    step = learner.steps_taken
                    opened = _Batches(batches, learner, strategy, step, total_steps, measured=steps_per_execution == 1)
                    guard.forget()
                    metrics.forget()
                    continue
            lines.write_figures(step, stopping.look(step, total_steps))
            if saves:
                if snapshots is not None:
                    lines.write_once(snapshots.write, step)
                checkpoints.save(step)
        stopping.keep_best(step, total_steps)
        if snapshots is not None:
            lines.write_once(snapshots.write, step)
    if learner.quantized is not None:
        learner.quantized.settle()
    return step


class _Batches:
    """The batches that follow a step, and what is found out about them on the way.

    Attributes:
      begun: the step.
      waiting: between them and the loop; none where one call takes several steps, which asks for its batches itself.
      iterator: of what a step takes.
      wrong_targets: how many had targets that are none, float32 scalar.
    """

    def __init__(
        self,
        batches: Callable[..., tf.data.Dataset],
        learner: Learner,
        strategy: tf.distribute.Strategy,
        begun: int,
        total_steps: int,
        *,
        measured: bool,
    ):
        if strategy.num_replicas_in_sync == 1:
            data = prefetch_to_device(batches(begun).take(total_steps - begun))
        else:
            data = strategy.distribute_datasets_from_function(lambda context: batches(begun, context))
        self.begun = begun
        self.waiting: InputWait[Any] | None = InputWait(data) if measured else None
        self.iterator = learner.teaching.over(data if self.waiting is None else self.waiting, lambda i: learner.writes_itself(begun + i))
        self.wrong_targets = tf.constant(0.0)
