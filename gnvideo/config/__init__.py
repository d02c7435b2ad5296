"""The configuration of a run and of a comparison; YAML in and out."""

from gnvideo.config.files import dump_config, load_config, make_config
from gnvideo.config.sections import (
    ComparisonConfig,
    DataConfig,
    EvaluationConfig,
    GridConfig,
    GridNormalizer,
    ModelConfig,
    NormalizerConfig,
    RunConfig,
    StrictConfig,
    TrainingConfig,
    make_normalizer_label,
)

__all__ = [
    "ComparisonConfig",
    "DataConfig",
    "EvaluationConfig",
    "GridConfig",
    "GridNormalizer",
    "ModelConfig",
    "NormalizerConfig",
    "RunConfig",
    "StrictConfig",
    "TrainingConfig",
    "dump_config",
    "load_config",
    "make_config",
    "make_normalizer_label",
]
