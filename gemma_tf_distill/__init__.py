"""Distil a small model of your own from a Gemma 3 teacher. Usable without TFX; nothing heavy is imported before it is used."""

import importlib
from typing import Any

_PUBLIC = {
    "Config": "gemma_tf_distill.config",
    "load_config": "gemma_tf_distill.config",
    "DistillationConfig": "gemma_tf_distill.config",
    "TrainingConfig": "gemma_tf_distill.config",
    "AttentionConfig": "gemma_tf_distill.config",
    "QuantizationConfig": "gemma_tf_distill.config",
    "DistillationTrainer": "gemma_tf_distill.training.trainer",
    "TeacherAhead": "gemma_tf_distill.training.teacher_ahead",
    "gradient_accumulation_step": "gemma_tf_distill.training.accumulation",
    "ProgressiveDropout": "gemma_tf_distill.training.progressive_dropout",
    "DistillationLoss": "gemma_tf_distill.transfer.distillation_loss",
    "StudentOutputs": "gemma_tf_distill.transfer.outputs",
    "TeacherOutputs": "gemma_tf_distill.transfer.outputs",
    "IntermediateLayerMapping": "gemma_tf_distill.transfer.layer_mapping",
    "LinearPathDistillation": "gemma_tf_distill.transfer.hidden_states",
    "ActivationQuantizer": "gemma_tf_distill.quantization.quantizers",
    "LatticeQuantizer": "gemma_tf_distill.quantization.quantizers",
    "QuantizedLinear": "gemma_tf_distill.quantization.linear",
    "ModelQuantization": "gemma_tf_distill.quantization.apply",
    "fake_quantized": "gemma_tf_distill.quantization.apply",
    "quantized_weights": "gemma_tf_distill.quantization.apply",
    "fit_quantized": "gemma_tf_distill.training.quantized",
    "TPUBatchProcessor": "gemma_tf_distill.data.batch_processor",
    "DistillationMetrics": "gemma_tf_distill.monitoring.distillation_metrics",
    "HardwareMonitor": "gemma_tf_distill.monitoring.hardware",
    "InputWait": "gemma_tf_distill.monitoring.input_wait",
    "EfficientAttention": "gemma_tf_distill.gemma.efficient_attention",
    "Gemma": "gemma_tf_distill.gemma.model",
    "load_teacher": "gemma_tf_distill.gemma.teacher",
    "build_student": "gemma_tf_distill.gemma.student",
    "trim_vocabulary": "gemma_tf_distill.gemma.vocabulary",
    "load_generator": "gemma_tf_distill.export.generation",
    "XlaConfig": "gemma_tf_distill.config",
    "XLAOptimizer": "gemma_tf_distill.xla.optimizer",
    "UserError": "gemma_tf_distill.errors",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
