"""The loop around the step: checkpoints that resume to the same bits, TensorBoard scalars, progress."""

import dataclasses
import math
import time
from collections.abc import Callable

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, TrainingConfig
from gemma_tf_distill.errors import UserError
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.monitoring.progress import progress
from gemma_tf_distill.training.optimizers import make_optimizer
from gemma_tf_distill.training.trainer import DistillationTrainer


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
    batches: Callable[[int], tf.data.Dataset],
    *,
    training: TrainingConfig,
    distillation: DistillationConfig,
    total_steps: int,
) -> None:
    """Trains `student` in place, from the run's last checkpoint where there is one.

    Args:
      student: the model, at its initial weights.
      run: names and folders.
      batches: from the number of batches to leave out to the batches that follow, as `training_batches` gives them.
      training: its config.
      distillation: its config.
      total_steps: optimizer steps in all, those before a resumption included.

    Raises:
      DivergenceError: if the loss is not finite.
    """
    trainer = DistillationTrainer(training, distillation, learn_from_teacher=run.learn_from_teacher)
    optimizer = make_optimizer(training, total_steps, student.backbone.trainable_variables)
    checkpoint = tf.train.Checkpoint(backbone=student.backbone, optimizer=optimizer)
    manager = tf.train.CheckpointManager(checkpoint, run.checkpoints, max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    begun = int(optimizer.iterations.numpy())
    step = begun
    clock = time.monotonic()
    writer = tf.summary.create_file_writer(run.tensorboard)
    with writer.as_default():
        for batch in batches(begun).take(total_steps - begun):
            metrics = trainer.train_step(batch, None, student, optimizer)
            step += 1
            if step == begun + 1 or step % training.log_every == 0 or step == total_steps:
                values = {name: float(value) for name, value in metrics.items()}
                if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
                    raise DivergenceError(
                        f"the loss of the {run.name} is {values['loss']} at step {step} of {total_steps}: "
                        f"lower training.learning_rate (now {training.learning_rate}) or raise training.warmup_fraction"
                    )
                window_tokens = int(tf.size(batch["tokens"]))
                rate = (step - begun) * window_tokens / (time.monotonic() - clock)
                for name in ("loss", "soft_loss", "hard_loss"):
                    if name in values:
                        tf.summary.scalar(f"distill/{name}", values[name], step)
                tf.summary.scalar("train/gradient_norm", values["gradient_norm"], step)
                tf.summary.scalar("train/learning_rate", float(optimizer.learning_rate), step)
                tf.summary.scalar("data/tokens_per_second", rate, step)
                writer.flush()
                progress(run.name, step * window_tokens, total_steps * window_tokens, loss=values["loss"])
            if step % training.checkpoint_every == 0 and step < total_steps:
                manager.save(step)
