"""Typed configuration: one tree of frozen dataclasses, filled from YAML and `key=value`."""

from config.load import ConfigError, from_dict, load_config, pick, to_dict, to_yaml
from config.schema import (
    AudioConfig,
    AugmentConfig,
    CheckpointConfig,
    ClipConfig,
    Config,
    DataConfig,
    DictionaryConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PoolConfig,
    PrepareConfig,
    SamplerConfig,
    StorageConfig,
    TrainConfig,
)

__all__ = [
    "AudioConfig",
    "AugmentConfig",
    "CheckpointConfig",
    "ClipConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DictionaryConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "PoolConfig",
    "PrepareConfig",
    "SamplerConfig",
    "StorageConfig",
    "TrainConfig",
    "from_dict",
    "load_config",
    "pick",
    "to_dict",
    "to_yaml",
]
