"""The Distiller's work, on folders: usable without a pipeline."""

import json
import os
from typing import Any

import keras

from components.distiller.inputs import TrainingInputs, checkpoint_folder, remove_folder, write_metrics
from gemma_tf_distill.config import (
    AttentionConfig,
    DistillationConfig,
    StrategyConfig,
    StudentConfig,
    TrainingConfig,
    XlaConfig,
    section_from_json,
)
from gemma_tf_distill.config.strategy import check_share
from gemma_tf_distill.data.first_windows import first_windows
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.student import build_student, kept_layers
from gemma_tf_distill.gemma.teacher import describe_source, load_teacher
from gemma_tf_distill.gemma.vocabulary import full_vocabulary
from gemma_tf_distill.monitoring.knowledge_transfer import gap_closed
from gemma_tf_distill.training.devices import check_teacher_device, on_device
from gemma_tf_distill.training.heldout import HeldoutEvaluation, HeldoutMetrics
from gemma_tf_distill.training.log_lines import write_heldout
from gemma_tf_distill.training.loop import Run, fit, steps_for
from gemma_tf_distill.training.precision import with_precision
from gemma_tf_distill.training.strategies import is_chief, make_strategy
from gemma_tf_distill.xla.optimizer import XLAOptimizer


def distil(
    *,
    examples_uri: str,
    tokenizer_uri: str,
    student_uri: str,
    tensorboard_uri: str,
    config: str,
    source_digest: str,
    checkpoints: str | None = None,
) -> dict[str, Any]:
    """Trains and saves the student and the control; see `Distiller` for the arguments. A killed one is resumed by the next.

    With a strategy of several processes each of them calls this, and the chief writes.

    Args:
      checkpoints: the folder of checkpoints until all is done; none: `checkpoint_folder`.

    Returns:
      The figures that `metrics.json` holds; empty where this process is not the chief.
    """
    settings = json.loads(config)
    training = section_from_json(TrainingConfig, config, "training")
    distillation = section_from_json(DistillationConfig, config, "distillation")
    attention = EfficientAttention(section_from_json(AttentionConfig, config, "attention"))
    xla = XLAOptimizer(section_from_json(XlaConfig, config, "xla"))
    student_config = section_from_json(StudentConfig, config, "student")
    strategy_config = section_from_json(StrategyConfig, config, "strategy")
    # First of all: once TensorFlow runs it takes no other processes or pieces of a CPU.
    strategy = make_strategy(strategy_config)
    check_share(training, strategy.num_replicas_in_sync)
    chief = is_chief(strategy)
    seed = settings["seed"]
    keras.utils.set_random_seed(seed)
    check_teacher_device(training.teacher_device)

    inputs = TrainingInputs.open(examples_uri, tokenizer_uri, settings, training, distillation)
    teacher = load_teacher(settings["teacher"], vocabulary=inputs.vocabulary)
    words = full_vocabulary(teacher.tokenizer)
    cut = student_config.cut
    calibration = None if cut is None else first_windows(inputs.files, settings["window"], cut.calibration_tokens)
    model = build_student(student_config, teacher, words, seed=seed, dtype=training.precision, calibration=calibration)
    # All of the teacher's weights, those of the words that the student does not have included.
    left_out = describe_source(settings["teacher"])["vocabulary_size"] - len(words.kept_ids)
    teacher_parameters = teacher.parameters + left_out * teacher.backbone.hidden_dim
    kept = kept_layers(student_config, teacher.backbone.num_layers)
    # Both were made on the host, whatever trains: only what training needs takes the devices' memory.
    live_teacher = None
    if distillation.needs_live_teacher:
        live_teacher = on_device(with_precision(teacher, settings["teacher_dtype"], strategy), training.teacher_device)
    del teacher
    model = with_precision(model, training.precision, strategy)

    evaluate = HeldoutEvaluation(model, attention=attention, strategy=strategy)
    initial_weights = model.backbone.get_weights()
    initial = evaluate(inputs.heldout)
    if checkpoints is None:
        checkpoints = checkpoint_folder(student_uri, config, source_digest, examples_uri, tokenizer_uri)

    def train(name: str, learn_from_teacher: bool, control: HeldoutMetrics | None = None) -> HeldoutMetrics:
        model.backbone.set_weights(initial_weights)
        run = Run(
            name=name,
            learn_from_teacher=learn_from_teacher,
            checkpoints=os.path.join(checkpoints, name),
            tensorboard=os.path.join(tensorboard_uri, name),
            control_nll=None if control is None else control.nll,
        )
        steps = fit(
            model,
            run,
            inputs.batches,
            training=training,
            distillation=distillation,
            total_steps=steps_for(training, inputs.store.windows),
            teacher=live_teacher,
            kept_layers=kept,
            seed=seed,
            attention=attention,
            xla=xla,
            strategy=strategy,
            steps_per_execution=strategy_config.steps_per_execution,
            evaluate=lambda: evaluate(inputs.heldout),
        )
        if chief:
            with_precision(model, "float32").save(os.path.join(student_uri, name))
        found = evaluate(inputs.heldout)
        if chief:
            write_heldout(run, steps, found)
        return found

    control = train("control", learn_from_teacher=False) if training.control else None
    student = train("student", learn_from_teacher=True, control=control)
    metrics = {
        "parameters": model.parameters,
        "vocabulary": model.backbone.vocabulary_size,
        "layers": model.backbone.num_layers,
        "heldout_nll_initial": initial.nll,
        "heldout_nll": student.nll,
        "heldout_nll_control": control.nll if control else None,
        "kl_to_teacher": student.kl_to_teacher,
        "top1_agreement": student.top1_agreement,
        "gap_closed": gap_closed(student.nll, control.nll if control else None, student.teacher_nll),
        "teacher_heldout_nll": student.teacher_nll,
        "teacher_parameters": teacher_parameters,
        "target_bytes_per_token": inputs.store.index["bytes_per_token"],
        "tokens": {"train": inputs.store.tokens, "heldout": student.tokens},
    }
    if not chief:
        return {}
    write_metrics(student_uri, metrics)
    remove_folder(checkpoints)
    return metrics
