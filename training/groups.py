"""Groups of parameters for the optimiser: what is trained, how fast, and what stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import groupby
from typing import Any

from rich.table import Table
from torch import nn
from torch.nn import Parameter

from .config import ConfigError
from .sections import FinetuneConfig, TrainConfig

_IN_TURN = {"ALIGNN": ("alignn_layers", "gcn_layers")}
"""Lists of blocks that run one after another; all others of one model run side by side."""

_OF_ADAPTER = re.compile(r"\.(start|left|right)$")


def parameter_groups(
    module: nn.Module, train: TrainConfig, finetune: FinetuneConfig | None = None
) -> list[dict[str, Any]]:
    """The trained parameters, as an optimiser takes them.

    Each group has `params`, its `name`, its `weight_decay` (on matrices only) and `lr_factor`, by
    which the schedule's learning rate is multiplied. What `freeze` left without a gradient is in
    none. Raises ConfigError for a rule that changes nothing.
    """
    weights = named_weights(module)
    trained = {name: p for name, p in weights.items() if p.requires_grad}
    factors = lr_factors(module, weights, finetune)
    found: dict[tuple[float, float], list[Parameter]] = {}
    for name, parameter in trained.items():
        decay = train.weight_decay if parameter.ndim > 1 else 0.0
        found.setdefault((factors[name], decay), []).append(parameter)
    groups = []
    for (factor, decay), params in sorted(found.items(), key=lambda item: item[0], reverse=True):
        name = "trained" if factor == 1 else f"trained, lr x {factor:.3g}"
        groups.append({"params": params, "name": name, "lr_factor": factor, "weight_decay": decay})
    return groups


def named_weights(module: nn.Module) -> dict[str, Parameter]:
    """Parameters by the names that rules are searched in: those of the network, `model.` left out.

    A matrix with an adapter gives its own name to the matrix and to both factors of the change,
    with `.start`, `.left` and `.right` behind it.
    """
    return {weight_name(name): p for name, p in module.named_parameters()}


def weight_name(name: str) -> str:
    """A name of `named_parameters`, shortened as `named_weights` says."""
    name = name.removeprefix("model.")
    name = re.sub(r"parametrizations\.(\w+)\.original$", r"\1.start", name)
    return re.sub(r"parametrizations\.(\w+)\.0\.(\w+)$", r"\1.\2", name)


def freeze(module: nn.Module, finetune: FinetuneConfig) -> None:
    """Take the gradient from parameters that a rule freezes, or whose factor on the rate is zero.

    Raises ConfigError for a rule that matches nothing, and where nothing would be left to train.
    """
    weights = named_weights(module)
    for pattern in finetune.freeze:
        for name in matching(pattern, weights, "finetune.freeze"):
            weights[name].requires_grad_(False)
    trained = {name: p for name, p in weights.items() if p.requires_grad}
    if trained:
        for name, factor in lr_factors(module, trained, finetune).items():
            weights[name].requires_grad_(factor > 0)
    if not any(p.requires_grad for p in weights.values()):
        raise ConfigError(
            "finetune: every parameter is frozen, so that there is nothing to train; leave out a "
            "rule of finetune.freeze or a zero in finetune.lr."
        )


def lr_factors(
    module: nn.Module, names: Iterable[str], finetune: FinetuneConfig | None
) -> dict[str, float]:
    """Factor on the learning rate by name: that of the last rule that matches, times the decay.

    Raises ConfigError for a rule that matches none of the names.
    """
    names = list(names)
    if finetune is None:
        return dict.fromkeys(names, 1.0)
    depths = block_depths(module)
    last = max(depths.values())
    factors = {name: finetune.layer_decay ** (last - depths[name]) for name in names}
    rules: dict[str, float] = {}
    for pattern, factor in finetune.lr.items():
        rules |= dict.fromkeys(matching(pattern, names, "finetune.lr"), factor)
    return {name: factor * rules.get(name, 1.0) for name, factor in factors.items()}


def matching(pattern: str, names: Iterable[str], setting: str) -> list[str]:
    """Names in which a regular expression is found; raises ConfigError where it is in none.

    What an adapter adds to the name of its matrix does not count.
    """
    names = list(names)
    try:
        found = [name for name in names if re.search(pattern, _OF_ADAPTER.sub("", name))]
    except re.error as error:
        raise ConfigError(f"{setting}: {pattern!r} is no regular expression ({error}).") from error
    if not found:
        parts = {name.rsplit(".", k)[0] for name in names for k in range(name.count(".") + 1)}
        near = ", ".join(get_close_matches(pattern, sorted(parts), n=4, cutoff=0.0))
        raise ConfigError(
            f"{setting}: {pattern!r} matches nothing that would be trained; near it are {near}."
        )
    return found


def block_depths(module: nn.Module) -> dict[str, int]:
    """Depth of each parameter of `named_weights`: 0 embedding, then the blocks, then the readout.

    The blocks of a network are its lists of modules. Block k of a list is at depth k + 1: `blocks`
    of m3gnet, megnet and schnet, `layers` of mace and nequip, `convolutions` of cgcnn, `messages`
    and `updates` of painn, `products` and `layers` of allegro; so are the `filters` that belong to
    block k of painn and schnet. The `gcn_layers` of alignn follow its `alignn_layers`. What comes
    behind the last list is the readout, and all the rest the embedding.
    """
    network = getattr(module, "model", module)
    first: dict[str, int] = {}
    last = 0
    for child, blocks in network.named_children():
        if isinstance(blocks, nn.ModuleList):
            in_turn = _IN_TURN.get(type(network).__name__, ())
            first[child] = 1 + last if child in in_turn else 1
            last = max(last, first[child] + len(blocks) - 1)
    behind = _behind_the_blocks(network, first) | {"score"}  # the weights of a property's mean
    depths = {}
    for name in named_weights(module):
        child, *rest = name.split(".")
        if child in first:
            depths[name] = first[child] + int(rest[0])
        else:
            depths[name] = last + 1 if child in behind else 0
    return depths


def _behind_the_blocks(network: nn.Module, blocks: Mapping[str, int]) -> set[str]:
    """Children of a network behind the last list of blocks; without blocks its readout."""
    children = [name for name, _ in network.named_children()]
    if not blocks:
        return {"readout"}
    return set(children[max(children.index(name) for name in blocks) + 1 :])


def groups_table(module: nn.Module, groups: list[dict[str, Any]], lr: float) -> Table:
    """What happens to every parameter: a row a group, and one for all that stays as it is."""
    names = {id(p): name for name, p in named_weights(module).items()}
    table = Table("group", "parameters", "weights", "lr", "decay", title="Parameters")
    for group in groups:
        table.add_row(
            group["name"],
            abbreviated(names[id(p)] for p in group["params"]),
            f"{sum(p.numel() for p in group['params']):,}",
            f"{lr * group['lr_factor']:.2e}",
            f"{group['weight_decay']:g}",
        )
    frozen = {names[id(p)]: p for p in module.parameters() if not p.requires_grad}
    for title, adapted in (("under adapters: stay", True), ("frozen", False)):
        part = {n: p for n, p in frozen.items() if n.endswith(".start") is adapted}
        if part:
            count = f"{sum(p.numel() for p in part.values()):,}"
            table.add_row(title, abbreviated(part), count, "-", "-")
    return table


def abbreviated(names: Iterable[str]) -> str:
    """Names by the part of the network they are in: `embedding, blocks.0-2 (51), readout (6)`."""
    counts: dict[tuple[str, int], int] = {}
    for name in names:
        child, *rest = name.split(".")
        number = int(rest[0]) if rest and rest[0].isdigit() else -1
        counts[child, number] = counts.get((child, number), 0) + 1
    texts = []
    for child, items in groupby(sorted(counts.items()), key=lambda item: item[0][0]):
        part = list(items)
        numbers = [number for (_, number), _ in part if number >= 0]
        total = sum(count for _, count in part)
        whole = numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else False
        spread = f".{numbers[0]}-{numbers[-1]}" if whole and len(numbers) > 1 else ""
        spread = spread or ("." + ",".join(map(str, numbers)) if numbers else "")
        texts.append(f"{child}{spread} ({total})" if total > 1 else f"{child}{spread}")
    return ", ".join(texts)
