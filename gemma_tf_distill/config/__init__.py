"""The config is the experiment: one frozen object, read from YAML, checked on reading, hashed, stored with every artifact."""

from gemma_tf_distill.config.attention import AttentionConfig
from gemma_tf_distill.config.data_validation import DOCUMENT_FEATURES, ComparatorConfig, DataValidationConfig
from gemma_tf_distill.config.distillation import (
    LAYER_MAPPINGS,
    AttentionMapsConfig,
    DistillationConfig,
    HiddenStatesConfig,
    OnPolicyConfig,
    Schedule,
)
from gemma_tf_distill.config.gates import SLICE_FEATURES, GatesConfig, SliceGates, length_bucket
from gemma_tf_distill.config.quantization import QuantizationConfig
from gemma_tf_distill.config.reading import config_from_dict, config_with, load_config, recipes, section_from_json
from gemma_tf_distill.config.sections import (
    Config,
    CorpusConfig,
    ExportConfig,
    StudentConfig,
    StudentSizes,
    TeacherConfig,
    WidthCut,
)
from gemma_tf_distill.config.strategy import StrategyConfig
from gemma_tf_distill.config.training import TrainingConfig
from gemma_tf_distill.config.watching import DivergenceConfig, EarlyStoppingConfig
from gemma_tf_distill.config.xla import XlaConfig

__all__ = [
    "DOCUMENT_FEATURES",
    "LAYER_MAPPINGS",
    "SLICE_FEATURES",
    "AttentionConfig",
    "AttentionMapsConfig",
    "ComparatorConfig",
    "Config",
    "CorpusConfig",
    "DataValidationConfig",
    "DistillationConfig",
    "DivergenceConfig",
    "EarlyStoppingConfig",
    "ExportConfig",
    "GatesConfig",
    "HiddenStatesConfig",
    "OnPolicyConfig",
    "QuantizationConfig",
    "Schedule",
    "SliceGates",
    "StrategyConfig",
    "StudentConfig",
    "StudentSizes",
    "TeacherConfig",
    "TrainingConfig",
    "WidthCut",
    "XlaConfig",
    "config_from_dict",
    "config_with",
    "length_bucket",
    "load_config",
    "recipes",
    "section_from_json",
]
