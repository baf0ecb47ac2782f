"""What stops a replica: guards that look at a state and say in a sentence what went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ..relaxation.cell import plane_axes, principal
from ..relaxation.guards import Layer, collapsed, detached, merged
from ..slabs import Slabs
from .plane import lattice
from .settings import MDSettings
from .state import MDState, degrees_of_freedom, stress, temperature

EVERY = 10
"""Steps from one look at what costs time (distances, surroundings) to the next."""

HOT = 3.0
"""Times the highest target, above which a temperature has run away where there are many atoms."""

COOL = 300.0
"""K. A target below counts as this: a start that is not quite at rest warms up by more."""

OUTLIER = 15.0
"""Standard deviations of the temperature of few atoms that count as a fluctuation."""

STRETCH = 1.5
"""Longer or shorter than this many times itself along any direction, a cell has lost its way."""

STRESS = 300.0
"""N/m of in-plane stress; graphene, the strongest layer, breaks at 42."""

NOVEL = 2.0
"""Times the 99.9 % quantile of the training set, beyond which surroundings are unknown. Features of
networks that normalise them end at some 2.5 whatever the atoms do; of 12,095 atoms of frames that
the shipped model never saw, rattled ones among them, none is beyond 1.5."""

Novelty = Callable[[Slabs], Tensor]
"""(N,) how far the surroundings of each atom are from training, see `Potential.novelty`."""


class Watch:
    """The guards of a run, see `GUARDS`.

    Parameters
    ----------
    settings : of the run
    starts : first geometry of each replica by its key, in the form of `mlff2d.slab.canonical`
    novelty : None where the model does not know what it was trained on
    """

    def __init__(
        self,
        settings: MDSettings,
        starts: Mapping[int, Atoms],
        novelty: Novelty | None,
    ) -> None:
        self._settings = settings
        self._on = {
            name: name not in settings.unguarded
            for name in ("temperature", "close", "layer", "cell", "domain")
        }
        self._on["cell"] &= settings.ensemble == "npt"
        self._starts = {key: Layer(atoms, atoms.pbc) for key, atoms in starts.items()}
        self._novelty = novelty if self._on["domain"] else None

    def look(self, state: MDState, closely: bool) -> dict[int, str]:
        """A sentence by key of each replica that has to stop; `closely` looks at distances too."""
        found = self._by_numbers(state)
        for key, text in state.troubles.items():
            found[key] = text
        if closely:
            distant = self._by_surroundings(state, found)
            found = self._by_distances(state, found) | distant | found
        return found

    def _by_numbers(self, state: MDState) -> dict[int, str]:
        """What a few numbers of each replica tell; of a device all in one transfer."""
        heat = temperature(state)
        finite = torch.isfinite(heat) & torch.isfinite(state.energy)
        finite &= torch.isfinite(state.virial).all(2).all(1)
        columns = [finite.double(), heat, self._limit(state)]
        if self._on["cell"]:
            columns += [principal(stress(state)), *self._stretches(state)]
        found = {}
        table = torch.stack(columns, dim=1).tolist()
        for key, row in zip(state.slabs.key.tolist(), table, strict=True):
            if reason := self._judge(row):
                found[key] = reason
        return found

    def _judge(self, row: list[float]) -> str:
        finite, heat, limit = row[:3]
        if not finite:
            return "an energy, a velocity or a stress is NaN or infinite"
        if self._on["temperature"] and heat > limit:
            return (
                f"the temperature ran away to {heat:.0f} K, above {limit:.0f} K: the start is not "
                "relaxed, the timestep is too long, or the model fails here"
            )
        if not self._on["cell"]:
            return ""
        tension, shortest, longest = row[3:]
        if tension > STRESS:
            return f"the in-plane stress grew to {tension:.0f} N/m; the layer is not what it was"
        if longest > STRETCH or shortest < 1 / STRETCH:
            return (
                f"the cell was stretched to {shortest:.2f} and {longest:.2f} times itself: no "
                "layer bears the pressure, or it has melted"
            )
        return ""

    def _limit(self, state: MDState) -> Tensor:
        """(S,) K above which a temperature has run away."""
        if self._settings.max_temperature is not None:
            return torch.full_like(state.energy, self._settings.max_temperature)
        ramp = self._settings.ramp
        target = max(ramp.start, ramp.end, COOL)
        # Of a temperature T with f degrees of freedom the variance is 2 T² / f.
        spread = (2 / degrees_of_freedom(state.slabs)).sqrt()
        return target * (1 + OUTLIER * spread).clamp_min(HOT)

    def _stretches(self, state: MDState) -> tuple[Tensor, Tensor]:
        """(S,) smallest and largest principal stretch of the cells since the start."""
        slabs = state.slabs
        now = lattice(slabs.cell, slabs.pbc, plane_axes(slabs.cell, slabs.pbc))
        cells = [self._starts[key].atoms.cell.array for key in slabs.key.tolist()]
        first = torch.stack([torch.from_numpy(cell) for cell in cells]).to(now)
        deformation = torch.linalg.solve(
            lattice(first, slabs.pbc, plane_axes(first, slabs.pbc)), now
        )
        finite = torch.isfinite(deformation).all(2).all(1)
        values = torch.linalg.svdvals(torch.where(finite[:, None, None], deformation, 0.0))
        return values[:, 1], values[:, 0]

    def _by_distances(self, state: MDState, known: Mapping[int, str]) -> dict[int, str]:
        found: dict[int, str] = {}
        if not (self._on["close"] or self._on["layer"]):
            return found
        slabs = state.slabs.to("cpu")
        for s, key in enumerate(slabs.key.tolist()):
            if key in known:
                continue
            start = self._starts[key]
            atoms = start.atoms.copy()
            atoms.set_constraint()
            atoms.positions = slabs.pos[slabs.atoms_of(s)].numpy()
            atoms.cell = slabs.cell[s].numpy()
            now = Layer(atoms, start.pbc)
            reason = collapsed(now) if self._on["close"] else ""
            if not reason and self._on["layer"]:
                reason = detached(start, now) or merged(start, now, _vacuum(start))
            if reason:
                found[key] = reason
        return found

    def _by_surroundings(self, state: MDState, known: Mapping[int, str]) -> dict[int, str]:
        if self._novelty is None:
            return {}
        slabs = state.slabs
        safe = torch.tensor([key not in known for key in slabs.key.tolist()])
        if not safe.any():
            return {}
        slabs = slabs.select(safe.to(slabs.key.device))
        novelty = self._novelty(slabs).cpu()
        found = {}
        for s, key in enumerate(slabs.key.tolist()):
            rows = novelty[slabs.atoms_of(s)]
            i = int(rows.argmax())
            if not float(rows[i]) <= NOVEL:
                symbol = self._starts[key].atoms.symbols[i]
                found[key] = (
                    f"the surroundings of atom {i} ({symbol}) are {float(rows[i]):.1f} times as "
                    "far from the training set as its outermost; what the model says there is a "
                    "guess"
                )
        return found


def timestep_limit(lightest: float) -> float:
    """fs that the vibrations of a lightest mass in amu allow.

    Half a femtosecond for hydrogen, whose bonds swing back and forth within 9 fs; the period grows
    with the root of the mass.
    """
    return 0.5 * math.sqrt(lightest / 1.008)


def _vacuum(start: Layer) -> NDArray[np.floating]:
    return start.atoms.cell.array[~start.pbc][0]
