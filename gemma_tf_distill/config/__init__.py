"""The config is the experiment: one frozen object, read from YAML, checked on reading, hashed, stored with every artifact."""

from gemma_tf_distill.config.reading import config_from_dict, load_config, recipes, section_from_json
from gemma_tf_distill.config.sections import (
    Config,
    CorpusConfig,
    DistillationConfig,
    ExportConfig,
    GatesConfig,
    StudentConfig,
    StudentSizes,
    TeacherConfig,
    TrainingConfig,
)

__all__ = [
    "Config",
    "CorpusConfig",
    "DistillationConfig",
    "ExportConfig",
    "GatesConfig",
    "StudentConfig",
    "StudentSizes",
    "TeacherConfig",
    "TrainingConfig",
    "config_from_dict",
    "load_config",
    "recipes",
    "section_from_json",
]
