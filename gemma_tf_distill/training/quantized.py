"""The second half of training: a float student learns to be itself in the numbers that it will be stored in.

Gemma Team 2025, "Gemma 3 Technical Report", section 2.3: a few thousand steps more, with the probabilities of the unquantised checkpoint as
targets.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from gemma_tf_distill.config import DistillationConfig, QuantizationConfig, TrainingConfig
from gemma_tf_distill.config.checking import check
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma, new_backbone
from gemma_tf_distill.quantization.apply import ModelQuantization
from gemma_tf_distill.training.heldout import HeldoutEvaluation, HeldoutMetrics
from gemma_tf_distill.training.log_lines import write_heldout
from gemma_tf_distill.training.loop import Run, fit, steps_for
from gemma_tf_distill.xla.optimizer import XLAOptimizer


class QuantizedMetrics(NamedTuple):
    """How good a model is as it will run.

    Attributes:
      rounded: before its quantised training.
      trained: after it.
    """

    rounded: HeldoutMetrics
    trained: HeldoutMetrics


def fit_quantized(
    student: Gemma,
    run: Run,
    batches: Callable[..., tf.data.Dataset],
    heldout: tf.data.Dataset,
    *,
    training: TrainingConfig,
    distillation: DistillationConfig,
    quantization: QuantizationConfig,
    windows: int,
    teacher: Gemma | None = None,
    kept_layers: Sequence[int] | None = None,
    seed: int = 0,
    attention: EfficientAttention | None = None,
    xla: XLAOptimizer | None = None,
    steps_per_execution: int = 1,
) -> QuantizedMetrics:
    """Trains a float student in place until its matrices lie on their lattices; arguments as of `fit`, and:

    Args:
      student: after its training in float; also where a run is resumed, since its probabilities may be the targets.
      run: with checkpoints of its own.
      batches: as of the training in float, of `quantization.batch_size` windows where it says so. With the student's own probabilities
        only the tokens are read.
      heldout: `evaluation_batches`.
      training: clipping and so on are the same; epochs, batch size and learning rate are as `quantization` says, no layer is left
        out, and no profile is taken.
      distillation: of the training in float; what it says of the teacher holds where the targets are the teacher's.
      quantization: with a scheme; of no epochs: the student is only rounded.
      windows: how many there are to train on.
      teacher: over the student's vocabulary, where the targets are the teacher's and `distillation.needs_live_teacher`.
      kept_layers: the teacher's layers that the student began as, where it did.
      seed: of what is random.
      attention: how student and live teacher compute theirs; none: as KerasHub does.
      xla: what compiles a step; none: whole steps, without flags.
      steps_per_execution: steps that one call takes.

    Raises:
      ConfigError: without a scheme, and as of `fit`.
    """
    check(quantization.scheme is not None, "quantization.scheme", "given for quantised training", quantization.scheme)
    as_it_runs = ModelQuantization(student, quantization)
    evaluate = HeldoutEvaluation(student, as_it_runs, attention)
    rounded = evaluate(heldout)
    if quantization.epochs:
        training = dataclasses.replace(
            training,
            epochs=quantization.epochs,
            batch_size=quantization.windows_a_step(training.batch_size),
            learning_rate=quantization.peak_learning_rate(training.learning_rate),
            layer_dropout=0.0,
            profile_steps=None,
        )
        if quantization.targets == "student":
            distillation = DistillationConfig(alpha=1.0, targets="dense")
            teacher, kept_layers = _copy(student), None

        def look() -> HeldoutMetrics:
            as_it_runs.track(frozen=False)
            return evaluate(heldout)

        steps = fit(
            student,
            run,
            batches,
            training=training,
            distillation=distillation,
            total_steps=steps_for(training, windows),
            teacher=teacher,
            kept_layers=kept_layers,
            seed=seed,
            quantization=quantization,
            attention=attention,
            xla=xla,
            steps_per_execution=steps_per_execution,
            evaluate=look,
        )
    else:
        steps = 0
        as_it_runs.settle()
    # The weights lie on their lattices now, so that their own scales are those that they were trained with.
    as_it_runs.track(frozen=False)
    trained = evaluate(heldout)
    write_heldout(run, steps, trained)
    return QuantizedMetrics(rounded, trained)


def _copy(model: Gemma) -> Gemma:
    backbone = new_backbone(model, dtype=model.backbone.dtype_policy.name)
    backbone.set_weights(model.backbone.get_weights())
    return Gemma(backbone, model.tokenizer)
