"""From all frames in the data to those of each part: filters, then selection, then the split.

Axes: S structures.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..config import ConfigError
from ..sections import Config
from .compositions import made_only_of
from .dataset import Dataset
from .filters import Removed, apply_filters
from .references import elements_of, isolated_atoms
from .selection import select
from .splits import PARTS, Split, split, uniform_of


def choose_frames(data: Dataset, config: Config) -> tuple[NDArray[np.int64], list[Removed]]:
    """Ascending indices of the frames that filters and selection leave, and what they removed.

    With `priors.references: isolated` the isolated atoms are taken out first: they give reference
    energies and are nothing to train on, so no filter judges them.
    """
    ids, removed = np.arange(len(data)), []
    if config.priors.references == "isolated":
        atoms = isolated_atoms(data)
        ids = np.setdiff1d(ids, atoms)
        removed.append(_removed(data, "an isolated atom, for its reference energy alone", atoms))
    ids, filtered = apply_filters(data, config.filters, ids)
    ids, unselected = select(data, ids, config.selection)
    return ids, removed + filtered + ([] if unselected is None else [unselected])


def split_data(config: Config, data: Dataset) -> tuple[Split, list[Removed]]:
    """Choose frames and split them; those outside training with elements not in it are left out.

    Raises ConfigError where a part that is needed is empty.
    """
    ids, removed = choose_frames(data, config)
    found = split(data, config.split, ids)
    if config.split.train_frames is not None:
        found, unwanted = _fewer(data, found, config.split.train_frames, config.seed)
        removed.append(unwanted)
    by = config.split.by
    if by in ("chemistry", "composition"):
        rule = f"its {by} is drawn for another part than its material"
        removed.append(_removed(data, rule, found.left_out))
    known = elements_of(data, found.train)
    parts = {"train": found.train}
    for name in PARTS[1:]:
        part: NDArray[np.int64] = getattr(found, name)
        unknown = ~made_only_of(data, part, known)
        parts[name] = part[~unknown]
        rule = f"{name} with an element not in training"
        removed.append(_removed(data, rule, part[unknown]))
    for name in PARTS[:2]:
        if len(parts[name]) == 0:
            raise ConfigError(_why_empty(data, config, ids, name, removed))
    return Split(**parts, left_out=found.left_out), removed


def _fewer(data: Dataset, found: Split, n: int, seed: int) -> tuple[Split, Removed]:
    """A split with so many frames to train on; the others are in no part."""
    order = training_order(data, found.train, seed)
    left_out = np.sort(order[n:])
    fewer = replace(found, train=np.sort(order[:n]))
    return fewer, _removed(data, "beyond split.train_frames", left_out)


def training_order(data: Dataset, ids: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Structures in the order in which `split.train_frames` takes them.

    One frame of each material, then a second of each, and so on; the order of materials, and of the
    frames of each, is drawn by the seed and their names. Frames that bring an element that none
    before them has come first, so that few frames hold all of them.
    """
    by_frame = sorted(ids.tolist(), key=lambda s: uniform_of(f"{data.fingerprint[s]:016x}", seed))
    taken: Counter[str] = Counter()
    in_turn = []
    for s in by_frame:
        name = data.material[s]
        in_turn.append((taken[name], uniform_of(name, seed), s))
        taken[name] += 1
    first: list[int] = []
    rest: list[int] = []
    seen: set[int] = set()
    for *_, s in sorted(in_turn):
        elements = set(data.atoms_of("z", [s]).tolist())
        (rest if elements <= seen else first).append(s)
        seen |= elements
    return np.array(first + rest, dtype=np.int64)


def _removed(data: Dataset, rule: str, ids: NDArray[np.int64]) -> Removed:
    return Removed(rule, len(ids), data.name(int(ids[0])) if len(ids) else "")


def _why_empty(
    data: Dataset, config: Config, ids: NDArray[np.int64], name: str, removed: list[Removed]
) -> str:
    if len(ids) == 0:
        worst = max(removed, key=lambda rule: rule.count)
        return (
            f"none of the {len(data)} frames is left to train on; {worst.count} were left out for: "
            f"{worst.rule}, e.g. {worst.example}; change that rule or the data."
        )
    n_materials = len(np.unique(data.material.codes[ids]))
    text = (
        f"the {name} part is empty ({len(ids)} frames of {n_materials} materials passed the "
        "filters and the selection); change split.val, split.test, split.seed or the filters."
    )
    if config.split.by == "frame":
        return text
    return text + (
        " A material is never split: with few compounds, let data.material_key name an entry of "
        "info that tells groups of frames apart, such as a configuration or a run."
    )
