"""Which configurations are learnt from and which are held out, over repeated splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .config import SplitsConfig
from .system import Configuration


@dataclass(frozen=True)
class Split:
    """Parts of the configurations with DFT results of all systems.

    Attributes
    ----------
    number : from 0
    size : configurations of each system to learn from, for a learning curve; None for all that are
        not held out
    """

    number: int
    train: tuple[Configuration, ...]
    test: tuple[Configuration, ...]
    size: int | None = None


def splits(configurations: Sequence[Configuration], config: SplitsConfig, seed: int) -> list[Split]:
    """Repeated splits of configurations with DFT results, each system by itself.

    End members are always learnt from. Of each system the same share is held out, at least one.
    """
    return [_split(configurations, config, seed, number) for number in range(config.repeats)]


def _split(
    configurations: Sequence[Configuration], config: SplitsConfig, seed: int, number: int
) -> Split:
    train, test = [], []
    for system, own in _by_system(configurations).items():
        mixed = [one for one in own if one.end_member is None]
        n_test = max(1, round(config.test * len(mixed)))
        held = {mixed[k].name for k in _order(system, seed, number, len(mixed))[:n_test]}
        train += [one for one in own if one.name not in held]
        test += [one for one in own if one.name in held]
    return Split(number, tuple(train), tuple(test))


def smaller(split: Split, size: int, seed: int) -> Split:
    """The same held-out part, and only so many configurations of each system to learn from.

    End members count and stay; what a smaller part has, a larger one has too. A system with fewer
    gives all it has.
    """
    train = []
    for system, own in _by_system(split.train).items():
        ends = [one for one in own if one.end_member is not None]
        mixed = [one for one in own if one.end_member is None]
        order = _order(system, seed + 7919, split.number, len(mixed))
        chosen = {mixed[k].name for k in order[: max(0, size - len(ends))]}
        train += [*ends, *(one for one in mixed if one.name in chosen)]
    return Split(split.number, tuple(train), split.test, size)


def _by_system(configurations: Sequence[Configuration]) -> dict[str, list[Configuration]]:
    found: dict[str, list[Configuration]] = {}
    for one in configurations:
        found.setdefault(one.system, []).append(one)
    return found


def _order(system: str, seed: int, number: int, n: int) -> list[int]:
    words = [seed, number, *system.encode()]
    return [int(k) for k in np.random.default_rng(words).permutation(n)]
