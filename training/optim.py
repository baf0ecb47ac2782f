"""Optimiser, schedule of the learning rate, and the running mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam in one of three variants; weight decay acts on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.Adam(groups, lr=config.lr, amsgrad=config.optimizer == "amsgrad")


def learning_rate(progress: float, config: TrainConfig) -> float:
    """The learning rate after `progress` epochs: a linear rise, then half a cosine."""
    if progress < config.warmup_epochs:
        return config.lr * max(progress / config.warmup_epochs, 1e-3)
    rest = max(config.epochs - config.warmup_epochs, 1e-9)
    done = min((progress - config.warmup_epochs) / rest, 1.0)
    share = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * share


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential running mean of the weights, short in the first steps.

    After t updates the decay is min(decay, (1 + t) / (10 + t)), so that the random weights of the
    start do not linger.
    """
    return AveragedModel(model, multi_avg_fn=_ema_update(decay))


def _ema_update(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(mean: Sequence[Tensor], current: Sequence[Tensor], n_averaged: Tensor | int) -> None:
        t = int(n_averaged)
        weight = 1 - min(decay, (1 + t) / (10 + t))
        torch._foreach_lerp_(list(mean), list(current), weight)

    return update
