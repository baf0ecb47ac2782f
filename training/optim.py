"""Optimiser, schedule of the learning rate, and the mean of the weights over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from .sections import TrainConfig

M = TypeVar("M", bound=nn.Module)


class MuonAdamW:
    """Muon for matrices and AdamW for the rest, used and saved as one optimiser.

    Muon (Jordan 2024) makes the singular values of a matrix's momentum equal; scaled as Liu et al.
    (arXiv 2502.16982) propose, its steps are as long as those of AdamW, so that one learning rate
    serves both. Rows and columns, which have one singular value, and stacks of matrices stay with
    AdamW.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], lr: float) -> None:
        parts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for group in groups:
            for part, matrices in zip(parts, (True, False), strict=True):
                params = [p for p in group["params"] if _is_matrix(p) is matrices]
                if params:
                    part.append(group | {"params": params})
        self._parts: list[torch.optim.Optimizer] = []
        if parts[0]:
            self._parts.append(torch.optim.Muon(parts[0], lr, adjust_lr_fn="match_rms_adamw"))
        if parts[1]:
            self._parts.append(torch.optim.AdamW(parts[1], lr, fused=True))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of both; what is set in them holds."""
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """One step of both."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        for part, content in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(content)


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim == 2 and min(parameter.shape) > 1


Optimizer = torch.optim.Optimizer | MuonAdamW


def build_optimizer(groups: Sequence[dict[str, Any]], config: TrainConfig) -> Optimizer:
    """The optimiser of a config over the groups of `groups.parameter_groups`."""
    if config.optimizer == "muon":
        return MuonAdamW(groups, config.lr)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, config.lr, fused=True)
    amsgrad = config.optimizer == "amsgrad"
    return torch.optim.Adam(groups, config.lr, amsgrad=amsgrad, fused=True)


def learning_rate(progress: float, config: TrainConfig, plateaus: int = 0) -> float:
    """The learning rate after `progress` epochs: a linear rise, then the schedule.

    `plateaus` is how often the validation loss has stayed where it was, for that schedule.
    """
    if progress < config.warmup_epochs:
        return config.lr * max(progress / config.warmup_epochs, 1e-3)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "plateau":
        return config.lr * max(config.plateau_factor**plateaus, config.final_lr)
    rest = max(config.epochs - config.warmup_epochs, 1e-9)
    done = min((progress - config.warmup_epochs) / rest, 1.0)
    share = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * share


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


class WeightMean(Generic[M]):
    """A mean of the weights over steps, for validation and for the model that is saved.

    Running, with a decay that is short in the first steps: after t updates it is
    min(decay, (1 + t) / (10 + t)), so that the random weights of the start do not linger. Or, after
    `restart`, over all steps since. It is kept in float64: in float32 a late step would add less to
    it than rounding takes away.
    """

    def __init__(self, module: M, decay: float) -> None:
        self._module = deepcopy(module).requires_grad_(False)
        self._mean = [p.detach().double() for p in self._module.parameters()]
        self._decay: float | None = decay
        self._updates = 0

    @property
    def module(self) -> M:
        """The module with the mean for its weights, in its own precision."""
        with torch.no_grad():
            for parameter, mean in zip(self._module.parameters(), self._mean, strict=True):
                parameter.copy_(mean)
        return self._module

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after one more step."""
        t = self._updates
        if t == 0:
            weight = 1.0
        elif self._decay is None:
            weight = 1 / (1 + t)
        else:
            weight = 1 - min(self._decay, (1 + t) / (10 + t))
        current = [p.detach().double() for p in module.parameters()]
        torch._foreach_lerp_(self._mean, current, weight)
        self._updates += 1

    def restart(self) -> None:
        """Forget what was; from here on the mean is over all steps."""
        self._decay, self._updates = None, 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives."""
        return {"mean": self._mean, "decay": self._decay, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        for ours, theirs in zip(self._mean, state["mean"], strict=True):
            ours.copy_(theirs)
        self._decay, self._updates = state["decay"], state["updates"]
