"""The sections of a config and what each setting means; `config` reads them from YAML."""

from .config import Config
from .data import DataConfig, FilterConfig, SelectionConfig, SplitConfig
from .finetune import AdapterConfig, FinetuneConfig, ReplayConfig
from .model import ModelConfig, PriorConfig, PropertyConfig
from .optimisation import LossConfig, StageTwoConfig, TrainConfig

__all__ = [
    "AdapterConfig",
    "Config",
    "DataConfig",
    "FilterConfig",
    "FinetuneConfig",
    "LossConfig",
    "ModelConfig",
    "PriorConfig",
    "PropertyConfig",
    "ReplayConfig",
    "SelectionConfig",
    "SplitConfig",
    "StageTwoConfig",
    "TrainConfig",
]
