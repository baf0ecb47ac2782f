"""Which frames teach most: uncertain ones, that differ from each other, and that are physical.

The choice is greedy, among the most uncertain frames, `POOL` times as many as are wanted: the most
uncertain first, then whichever has the largest product of its uncertainty and its distance from the
nearest that is picked already. The distance is that between the means and spreads of the features
of a frame's atoms; without the uncertainty it is the farthest-point rule that V. Zaverkin et al.,
Digital Discovery 1, 605 (2022), find among the best.
Axes: S frames, F features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from rich.console import Console

from mlff2d.errors import StructureError
from mlff2d.potential import Potential

from ..config import ConfigError
from ..console import watched
from ..generation.filters import falls_apart, too_close
from .config import MOST_APART, WAYS, PickConfig, Way
from .opinions import Opinion, opinions

Array = NDArray[np.float64]

POOL = 4
"""Times the frames wanted. Less uncertain ones are looked at where all of these are duplicates."""

NEAR = 1e-3
"""Of the typical distance of a frame from the mean of all: what is nearer is a duplicate."""


@dataclass(frozen=True)
class Picked:
    """What was picked, and what was not.

    Attributes
    ----------
    ids : of the frames picked, in the order of the choice
    uncertainty : (S,) of all frames, NaN where none is known
    left_out : how many frames for which reason
    examples : a frame and what is wrong with it, for each reason
    way : how they were picked; another than was asked for where that was not to be had
    notes : sentences that a user should know
    """

    ids: list[int]
    uncertainty: Array
    left_out: dict[str, int]
    examples: dict[str, str]
    way: Way
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Primitives, the uncertainties as figures over all frames."""
        known = self.uncertainty[np.isfinite(self.uncertainty)]
        picked = self.uncertainty[self.ids]
        return {
            "way": self.way,
            "ids": self.ids,
            "left_out": self.left_out,
            "examples": self.examples,
            "uncertainty": {
                "median": float(np.median(known)) if len(known) else None,
                "largest": float(known.max()) if len(known) else None,
                "least picked": float(picked.min()) if np.isfinite(picked).all() else None,
            },
        }


def pick(
    models: Sequence[Potential], frames: Sequence[Atoms], settings: PickConfig, seed: int = 0
) -> Picked:
    """Choose frames for which a calculation pays.

    A committee of one model is none: its novelty counts then, and where it has no domain frames are
    picked that differ from each other. Raises ConfigError where no frame is left.
    """
    way, notes = _way(settings.by, models)
    table = _Table(len(frames))
    asked = watched(opinions(models, frames), "asking the models", len(frames))
    for s, told in enumerate(asked):
        table.add(s, frames[s], told, way, settings)
    left = np.flatnonzero(table.usable)
    if not len(left):
        raise ConfigError(f"none of {len(frames)} frames is worth a calculation: {table.tally()}.")
    if way == "random":
        order = np.random.default_rng(seed).permutation(left)[: settings.n].tolist()
    else:
        weight = np.ones(len(left)) if way == "diversity" else table.uncertainty[left]
        vectors = np.stack([table.vectors[s] for s in left.tolist()])
        order = left[greedy(vectors, weight, settings.n)].tolist()
    if len(order) < min(settings.n, len(left)):
        table.leave_out("a near duplicate of one that was picked", len(left) - len(order))
    if len(order) < settings.n:
        notes.append(
            f"Only {len(order)} frames were picked and {settings.n} were wanted: explore longer, "
            "hotter or from more structures."
        )
    return Picked(order, table.uncertainty, dict(table.counts), table.examples, way, notes)


def greedy(vectors: Array, weight: Array, n: int) -> list[int]:
    """Rows of (S, F) vectors with (S,) positive weights that are far from each other.

    The heaviest first; fewer than `n` where all others are duplicates of those. The lighter rows
    beyond `POOL` * n count only when no heavier one is left.
    """
    heavy = np.zeros(len(weight), dtype=bool)
    heavy[np.argsort(-weight, kind="stable")[: POOL * n]] = True
    if (weight == weight[0]).all():
        heavy[:] = True  # none is lighter
    centre = np.linalg.norm(vectors - vectors.mean(0), axis=1)
    chosen = [int(np.argmax(weight))]
    distance = np.linalg.norm(vectors - vectors[chosen[0]], axis=1)
    while len(chosen) < min(n, len(vectors)):
        score = np.where(distance > NEAR * np.median(centre), distance * weight, -1.0)
        score[chosen] = -1.0
        if score.max() < 0:
            break
        among = heavy if score[heavy].max() >= 0 else np.ones_like(heavy)
        best = int(np.argmax(np.where(among, score, -1.0)))
        chosen.append(best)
        distance = np.minimum(distance, np.linalg.norm(vectors - vectors[best], axis=1))
    return chosen


def uncertainty_of(opinion: Opinion, way: Way, over: str) -> float:
    """What an opinion says of a whole frame, in the unit of `WAYS`; NaN where it says nothing."""
    values = {"committee": opinion.disagreement, "novelty": opinion.novelty}.get(way)
    if values is None:
        return float("nan")
    return float(values.max() if over == "max" else values.mean())


def _way(by: Way, models: Sequence[Potential]) -> tuple[Way, list[str]]:
    """How frames can be picked with these models."""
    has_domain = models[0].domain is not None
    if by == "novelty" and not has_domain:
        raise ConfigError(
            "pick.by: novelty needs a model that knows where its training set is; `mlff2d domain "
            "MODEL DATA -o FILE` adds that, or pick by diversity."
        )
    if by != "committee" or len(models) > 1:
        return by, []
    way: Way = "novelty" if has_domain else "diversity"
    return way, [f"There is only one model and so no committee yet: picked by {way}."]


class _Table:
    """What is known of each frame, and why some are left out."""

    def __init__(self, n: int) -> None:
        self.usable = np.zeros(n, dtype=bool)
        self.uncertainty = np.full(n, np.nan)
        self.vectors: dict[int, Array] = {}
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(
        self, s: int, atoms: Atoms, told: Opinion | StructureError, way: Way, settings: PickConfig
    ) -> None:
        """Judge a frame."""
        if isinstance(told, StructureError):
            self.leave_out("the models can say nothing of it", 1, s, str(told))
            return
        self.uncertainty[s] = value = uncertainty_of(told, way, settings.over)
        force = float(np.linalg.norm(told.mean_forces, axis=1).max())
        most = settings.max_uncertainty or (MOST_APART if way == "committee" else np.inf)
        apart = falls_apart(atoms) if settings.apart == "drop" else None
        if close := too_close(atoms):
            self.leave_out("with atoms too close", 1, s, close)
        elif apart:
            self.leave_out("that fall apart", 1, s, apart)
        elif force > settings.max_force:
            text = f"a force of {force:.1f} eV/Å, above {settings.max_force:g}"
            self.leave_out("too large a force", 1, s, text)
        elif value > most:
            self.leave_out("too uncertain to be physical", 1, s, f"{value:.2f}, above {most:g}")
        elif value < settings.min_uncertainty:
            text = f"{value:.3f}, below {settings.min_uncertainty:g}"
            self.leave_out("known well enough", 1, s, text)
        else:
            self.usable[s] = True
            mean, spread = told.features.mean(0), told.features.std(0)
            self.vectors[s] = np.concatenate([mean, spread])

    def leave_out(self, reason: str, count: int, s: int | None = None, text: str = "") -> None:
        """Count frames that are left out, with an example."""
        self.counts[reason] += count
        if s is not None:
            self.examples.setdefault(reason, f"frame {s}: {text}")

    def tally(self) -> str:
        """The reasons in a sentence."""
        found = (f"{n} {reason} ({self.examples[reason]})" for reason, n in self.counts.items())
        return "; ".join(found) or "there are none"


def marked(frames: Sequence[Atoms], chosen: Picked) -> list[Atoms]:
    """The frames that were picked, in that order, with their uncertainty in `info`."""
    found = []
    for s in chosen.ids:
        atoms = frames[s].copy()
        if np.isfinite(chosen.uncertainty[s]):
            atoms.info["uncertainty"] = float(chosen.uncertainty[s])
        found.append(atoms)
    return found


def print_picked(chosen: Picked, n: int, console: Console) -> None:
    """How many of `n` frames were picked and left out, and why."""
    for note in chosen.notes:
        console.print(note, soft_wrap=True)
    console.print(f"{len(chosen.ids)} of {n} frames picked: {WAYS[chosen.way]}", soft_wrap=True)
    for reason, count in chosen.left_out.items():
        example = chosen.examples.get(reason)
        text = f", e.g. {example}" if example else ""
        console.print(f"  left out: {count} {reason}{text}", soft_wrap=True)
