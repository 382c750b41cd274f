"""Typed configuration: one tree of frozen dataclasses, filled from YAML and `key=value`."""

from config.data import AudioConfig, AugmentConfig, ClipConfig, DataConfig, PrepareConfig, StorageConfig
from config.learning import DictionaryConfig, LossConfig, ModelConfig, OptimConfig, PoolConfig, SamplerConfig
from config.load import ConfigError, from_dict, load_config, pick, require, to_dict, to_yaml
from config.running import CheckpointConfig, LogConfig, MonitorConfig, TrainConfig
from config.schema import Config

__all__ = [
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
