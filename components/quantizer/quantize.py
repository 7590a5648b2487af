"""The Quantizer's work, on folders: usable without a pipeline."""

import dataclasses
import json
import os
from typing import Any

import keras

from components.artifact_files import METRICS_FILE, read_json
from components.distiller.inputs import TrainingInputs, checkpoint_folder, remove_folder, write_metrics
from gemma_tf_distill.config import (
    AttentionConfig,
    DistillationConfig,
    QuantizationConfig,
    StrategyConfig,
    StudentConfig,
    TrainingConfig,
    XlaConfig,
    section_from_json,
)
from gemma_tf_distill.gemma.efficient_attention import EfficientAttention
from gemma_tf_distill.gemma.model import Gemma
from gemma_tf_distill.gemma.student import kept_layers
from gemma_tf_distill.gemma.teacher import load_teacher
from gemma_tf_distill.monitoring.knowledge_transfer import gap_closed
from gemma_tf_distill.quantization.errors import rounding_errors
from gemma_tf_distill.training.devices import check_teacher_device, on_device
from gemma_tf_distill.training.loop import Run
from gemma_tf_distill.training.precision import with_precision
from gemma_tf_distill.training.quantized import fit_quantized
from gemma_tf_distill.xla.optimizer import XLAOptimizer


def quantize(
    *, student_uri: str, examples_uri: str, tokenizer_uri: str, quantized_uri: str, tensorboard_uri: str, config: str, source_digest: str
) -> dict[str, Any]:
    """Trains a float student for a scheme's numbers; see `Quantizer` for the arguments. A killed one is resumed by the next.

    Returns:
      The figures that `metrics.json` holds.
    """
    settings = json.loads(config)
    training = section_from_json(TrainingConfig, config, "training")
    distillation = section_from_json(DistillationConfig, config, "distillation")
    quantization = section_from_json(QuantizationConfig, config, "quantization")
    keras.utils.set_random_seed(settings["seed"])
    check_teacher_device(training.teacher_device)

    batches = dataclasses.replace(training, batch_size=quantization.windows_a_step(training.batch_size))
    inputs = TrainingInputs.open(examples_uri, tokenizer_uri, settings, batches, distillation)
    model = Gemma.load(os.path.join(student_uri, "student"), training.precision)
    teacher, kept = None, None
    if quantization.targets == "teacher" and distillation.needs_live_teacher:
        teacher = on_device(load_teacher(settings["teacher"], settings["teacher_dtype"], inputs.vocabulary), training.teacher_device)
        kept = kept_layers(section_from_json(StudentConfig, config, "student"), teacher.backbone.num_layers)

    errors = rounding_errors(model, quantization)
    checkpoints = checkpoint_folder(quantized_uri, config, source_digest, student_uri, examples_uri, tokenizer_uri)
    in_float = read_json(os.path.join(student_uri, METRICS_FILE))
    rounded, trained = fit_quantized(
        model,
        Run(
            name="quantized",
            learn_from_teacher=True,
            checkpoints=checkpoints,
            tensorboard=os.path.join(tensorboard_uri, "quantized"),
            control_nll=in_float["heldout_nll_control"],
        ),
        inputs.batches,
        inputs.heldout,
        training=training,
        distillation=distillation,
        quantization=quantization,
        windows=inputs.store.windows,
        teacher=teacher,
        kept_layers=kept,
        seed=settings["seed"],
        attention=EfficientAttention(section_from_json(AttentionConfig, config, "attention")),
        xla=XLAOptimizer(section_from_json(XlaConfig, config, "xla")),
        steps_per_execution=section_from_json(StrategyConfig, config, "strategy").steps_per_execution,
    )
    with_precision(model, "float32").save(os.path.join(quantized_uri, "student"))
    metrics = {
        **in_float,
        "heldout_nll": trained.nll,
        "kl_to_teacher": trained.kl_to_teacher,
        "top1_agreement": trained.top1_agreement,
        "gap_closed": gap_closed(trained.nll, in_float["heldout_nll_control"], trained.teacher_nll),
        "heldout_nll_float": in_float["heldout_nll"],
        "heldout_nll_ptq": rounded.nll,
        "quantization": quantization.numbers,
        "quantization_error": errors,
    }
    write_metrics(quantized_uri, metrics)
    remove_folder(checkpoints)
    return metrics
