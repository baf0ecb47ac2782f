"""Products of matrices in TF32 or bfloat16, and all else in the precision of the config.

TF32 (10 bits of mantissa) holds for every float32 product on a GPU. bfloat16 (7 bits) holds inside
the network only, by autocast: edge vectors, radial and angular functions, the readout, ZBL,
reference energies, sums over atoms, the strain, gradients, optimiser, the mean of the weights and
the loss stay float32 or float64, and so do validation and the model that is saved.
"""

from __future__ import annotations

import torch

from mlff2d.models import REGISTRY, model_name
from mlff2d.models.base import EnergyModel

from .config import ConfigError
from .sections import TrainConfig


def check_precision(config: TrainConfig, model: EnergyModel, device: torch.device) -> None:
    """Raise ConfigError for bfloat16 with a model, precision or device that does not allow it."""
    if not config.bf16:
        return
    if config.dtype != "float32":
        raise ConfigError(
            f"train.bf16 takes the place of float32 and cannot go with train.dtype {config.dtype}; "
            "leave one of the two out."
        )
    if not model.allows_bf16:
        able = ", ".join(name for name in sorted(REGISTRY) if REGISTRY[name].allows_bf16)
        raise ConfigError(
            f"train.bf16: {model_name(model)} has not been seen to learn in bfloat16; leave it out "
            f"(train.tf32 is for every model), or take one of {able}."
        )
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"train.bf16: {torch.cuda.get_device_name(device)} has no bfloat16; leave it out."
        )


def set_precision(config: TrainConfig, model: EnergyModel) -> None:
    """Set how products of matrices are computed: bfloat16 is for this model, TF32 for all."""
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    model.autocast = torch.bfloat16 if config.bf16 else None


def precision_notes(config: TrainConfig, device: torch.device) -> list[str]:
    """Sentences on settings that have no effect here."""
    if config.tf32 and device.type != "cuda":
        return [f"train.tf32 has no effect on a {device.type.upper()}: it is a matter of GPUs."]
    if config.tf32 and config.dtype != "float32":
        return [f"train.tf32 has no effect with train.dtype {config.dtype}."]
    return []
