"""Typed settings: a tree of frozen dataclasses, built from YAML and `key=value` overrides."""

from settings.data import (
    AudioAugmentConfig,
    AudioConfig,
    AugmentConfig,
    ClipConfig,
    DataConfig,
    PrepareConfig,
    StorageConfig,
)
from settings.errors import ConfigError, require
from settings.learning import DictionaryConfig, LossConfig, ModelConfig, OptimConfig, PoolConfig, SamplerConfig
from settings.load import from_dict, load_config, pick, to_dict, to_yaml
from settings.mix import MixedSetConfig
from settings.running import CheckpointConfig, LogConfig, MonitorConfig, TrainConfig
from settings.schema import Config

__all__ = [
    "AudioAugmentConfig",
    "AudioConfig",
    "AugmentConfig",
    "CheckpointConfig",
    "ClipConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DictionaryConfig",
    "LogConfig",
    "LossConfig",
    "MixedSetConfig",
    "ModelConfig",
    "MonitorConfig",
    "OptimConfig",
    "PoolConfig",
    "PrepareConfig",
    "SamplerConfig",
    "StorageConfig",
    "TrainConfig",
    "from_dict",
    "load_config",
    "pick",
    "require",
    "to_dict",
    "to_yaml",
]
