"""Low-rank adapters: small changes of large matrices, folded into them when a model is written.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022. Axes: r the rank, m and
n the sides of a matrix; a stack of matrices has leading axes and a change for each of its matrices.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..config import ConfigError
from ..groups import matching, named_weights, weight_name
from ..sections import AdapterConfig

Module = TypeVar("Module", bound=nn.Module)


class LowRank(nn.Module):
    """W + (alpha / r) B A with B (..., m, r), zero at first, and A (..., r, n)."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        *stack, m, n = weight.shape
        self.scale = alpha / rank
        self.left = nn.Parameter(weight.new_zeros(*stack, m, rank))
        right = weight.new_empty(*stack, rank, n)
        bound = 1 / math.sqrt(n)
        self.right = nn.Parameter(nn.init.uniform_(right, -bound, bound))

    def change(self) -> Tensor:
        """(..., m, n), what is added to the matrix."""
        return self.scale * (self.left @ self.right)

    def forward(self, weight: Tensor) -> Tensor:
        """The matrix with its change."""
        return weight + self.change()


def add_adapters(module: nn.Module, config: AdapterConfig) -> int:
    """Put an adapter on each matrix that matches and still has a gradient; how many.

    The matrix itself stays as it is. Trained as a whole, as before, are the rows that elements are
    looked up in, matrices whose smaller side is not above the rank, and vectors. Raises ConfigError
    where a pattern matches no matrix, or all matrices are too small.
    """
    owners = _matrices(module)
    names = sorted({n for pattern in config.match for n in matching(pattern, owners, _SETTING)})
    large = [name for name in names if min(_weight(*owners[name]).shape[-2:]) > config.rank]
    if not large:
        sides = max(min(_weight(*owners[name]).shape[-2:]) for name in names)
        raise ConfigError(
            f"finetune.adapters.rank is {config.rank}, but the smaller side of no matrix that "
            f"matches is above {sides}; give a rank below that."
        )
    for name in large:
        owner, attribute = owners[name]
        weight = _weight(owner, attribute)
        weight.requires_grad_(False)
        adapter = LowRank(weight, config.rank, config.alpha)
        parametrize.register_parametrization(owner, attribute, adapter)
    return len(large)


_SETTING = "finetune.adapters.match"


def _weight(owner: nn.Module, attribute: str) -> Tensor:
    weight: Tensor = getattr(owner, attribute)
    return weight


def _matrices(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Trained matrices, and stacks of them, by name: the module and attribute that hold each.

    Tables of elements are none: an nn.Embedding, or a parameter of the network itself.
    """
    network = getattr(module, "model", module)
    trained = {name for name, p in named_weights(module).items() if p.requires_grad}
    found = {}
    for at, owner in module.named_modules():
        if isinstance(owner, nn.Embedding) or owner is network:
            continue
        for attribute, parameter in owner.named_parameters(recurse=False):
            name = weight_name(f"{at}.{attribute}")
            if parameter.ndim > 1 and name in trained:
                found[name] = (owner, attribute)
    return found


def adapters(module: nn.Module) -> list[LowRank]:
    """All adapters of a module."""
    return [part for part in module.modules() if isinstance(part, LowRank)]


def merged(module: Module) -> Module:
    """The module with every change folded into its matrix, an ordinary model; itself if none is."""
    if not adapters(module):
        return module
    plain = deepcopy(module)
    for owner in list(plain.modules()):
        if parametrize.is_parametrized(owner):
            _fold(owner)
    return plain


def _fold(owner: nn.Module) -> None:
    """Make the adapted matrices of a module ordinary parameters.

    Not by torch's `remove_parametrizations`, which takes the attribute from a class that a deep
    copy shares with its original.
    """
    assert isinstance(owner.parametrizations, nn.ModuleDict)
    weights = {name: getattr(owner, name).detach() for name in owner.parametrizations}
    owner.__class__ = parametrize.type_before_parametrizations(owner)
    del owner.parametrizations
    for name, weight in weights.items():
        owner.register_parameter(name, nn.Parameter(weight))
