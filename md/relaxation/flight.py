"""The structures that are being relaxed at one time, as tensors.

Axes: S structures, N atoms, R = N + S rows that the optimiser moves (see `rows`), K = 3 coordinates
of each cell (see `cell`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mlff2d.slab import batched_area

from .. import slabs as slabs_room
from ..evaluator import Evaluation
from ..slabs import Slabs
from . import cell as strain
from . import fire, lbfgs, rows, symmetry
from .outcome import Reached, measure
from .rows import Rows
from .settings import RelaxSettings
from .symmetry import Orbits

OPTIMIZERS = {"fire": fire, "lbfgs": lbfgs}
STATES: dict[str, type[Any]] = {"fire": fire.State, "lbfgs": lbfgs.State}


@dataclass(frozen=True)
class Flight:
    """Structures on their way down.

    Attributes
    ----------
    slabs : the geometries as they are
    orbits : what keeps them symmetric, None where that is not asked for
    kept : what the optimiser keeps
    cell : (S, 3, 3) the undeformed cells, Å
    axes, basis : of the undeformed cells, see `cell`
    deformation : (S, 3, 3) from the undeformed cells
    position : (R, 3) what the optimiser moves, Å
    symmetrized : (S,) see `RelaxResult`
    step : (S,) int64 steps taken
    edges : (S,) int64 edges within the cutoff
    energy : (S,) eV, NaN before the first evaluation; so are the following
    forces : (N, 3) eV/Å on the atoms
    virial : (S, 3, 3) dE/dstrain in eV
    force : (R, 3) eV/Å, minus the gradient by `position`
    fmax, smax : (S,) see `measure`
    met : (S,) bool, see `measure`
    first_fmax : (S,) eV/Å at the start
    """

    slabs: Slabs
    orbits: Orbits | None
    kept: Any
    cell: Tensor
    axes: Tensor
    basis: Tensor
    deformation: Tensor
    position: Tensor
    symmetrized: Tensor
    step: Tensor
    edges: Tensor
    energy: Tensor
    forces: Tensor
    virial: Tensor
    force: Tensor
    fmax: Tensor
    smax: Tensor
    met: Tensor
    first_fmax: Tensor

    def __len__(self) -> int:
        """S."""
        return self.slabs.n_structures

    @property
    def rows(self) -> Rows:
        """Which row is whose."""
        return Rows.of(self.slabs.n_atoms)

    @classmethod
    def starting(cls, slabs: Slabs, settings: RelaxSettings) -> Flight:
        """One structure, on the CPU, before its first evaluation.

        Raises StructureError where its symmetry cannot be kept.
        """
        orbits, moved = None, 0.0
        if settings.symmetry:
            found = symmetry.symmetrized(slabs)
            slabs, orbits, moved = found.slabs, found.orbits, found.moved
            basis = found.basis(settings.cell)
            axes = strain.plane_axes(slabs.cell, slabs.pbc)
        else:
            axes = strain.plane_axes(slabs.cell, slabs.pbc)
            basis = strain.basis(slabs.cell, slabs.pbc, axes, settings.cell)
        layout = Rows.of(slabs.n_atoms)
        position = layout.fill(slabs.pos, slabs.pos.new_zeros(1, 3))
        nan = slabs.pos.new_full((1,), torch.nan)
        return cls(
            slabs=slabs,
            orbits=orbits,
            kept=OPTIMIZERS[settings.optimizer].init(layout, position),
            cell=slabs.cell,
            axes=axes,
            basis=basis,
            deformation=torch.eye(3, dtype=slabs.cell.dtype)[None],
            position=position,
            symmetrized=torch.full_like(nan, moved),
            step=torch.zeros_like(slabs.key),
            edges=torch.zeros_like(slabs.key),
            energy=nan,
            forces=torch.full_like(slabs.pos, torch.nan),
            virial=torch.full_like(slabs.cell, torch.nan),
            force=torch.full_like(position, torch.nan),
            fmax=nan,
            smax=nan,
            met=torch.zeros_like(slabs.key, dtype=torch.bool),
            first_fmax=nan,
        )

    def again(self, settings: RelaxSettings) -> Flight:
        """The same with an optimiser that has forgotten everything."""
        kept = OPTIMIZERS[settings.optimizer].init(self.rows, self.position)
        return replace(self, kept=kept)

    def moved(self, settings: RelaxSettings) -> Flight:
        """One step further."""
        layout = self.rows
        optimizer = OPTIMIZERS[settings.optimizer]
        kept, displacement = optimizer.step(self.kept, layout, self.position, self.force)
        position = self.position + displacement
        deformation = strain.deformation(self._strain(position, layout), self.basis, self.axes)
        pos = _apply(position[layout.atoms], deformation[self.slabs.batch])
        cell = torch.where(self.slabs.pbc[:, :, None], self.cell @ deformation, self.cell)
        return replace(
            self,
            slabs=self.slabs.moved(pos, cell),
            kept=kept,
            deformation=deformation,
            position=position,
            step=self.step + 1,
        )

    def evaluated(self, found: Evaluation, settings: RelaxSettings) -> Flight:
        """With what a potential says of the geometries as they are."""
        slabs, layout, axes = self.slabs, self.rows, self.axes
        forces = torch.where(slabs.held[:, None], 0.0, found.forces)
        if self.orbits is not None:
            forces = self.orbits.project(forces, slabs)
        area = batched_area(slabs.cell, slabs.pbc)
        virial = strain.enthalpy_virial(found.virial, area, axes, settings.pressure)
        q = self._strain(self.position, layout)
        by_strain = -strain.gradient(q, self.basis, axes, virial) / _cell_factor(slabs)
        by_position = _apply(forces, self.deformation.transpose(1, 2)[slabs.batch])
        measured = measure(slabs, found.forces, found.virial, axes, self.basis, settings)
        first_fmax = torch.where(self.energy.isnan(), measured.fmax, self.first_fmax)
        return replace(
            self,
            edges=found.n_edges,
            energy=found.energy,
            forces=found.forces,
            virial=found.virial,
            force=layout.fill(by_position, by_strain),
            fmax=measured.fmax,
            smax=measured.smax,
            met=measured.met,
            first_fmax=first_fmax,
        )

    def reached(self, trouble: str) -> Reached:
        """Where the only structure of this is."""
        slabs = self.slabs.to("cpu")
        return Reached(
            steps=int(self.step),
            pos=slabs.pos.numpy(),
            cell=slabs.cell[0].numpy(),
            energy=float(self.energy),
            forces=self.forces.cpu().numpy(),
            virial=self.virial[0].cpu().numpy(),
            fmax=float(self.fmax),
            smax=float(self.smax),
            met=bool(self.met) and not trouble,
            trouble=trouble,
            symmetrized=float(self.symmetrized),
        )

    def select(self, kept: Tensor) -> Flight:
        """The structures that a mask (S,) keeps."""
        if bool(kept.all()):
            return self
        of_atoms, of_rows = kept[self.slabs.batch], kept[self.rows.owner]
        masks = {"forces": of_atoms, "position": of_rows, "force": of_rows}
        return Flight(
            slabs=self.slabs.select(kept),
            orbits=None if self.orbits is None else self.orbits.select(of_atoms),
            kept=rows.select(self.kept, of_rows, kept),
            **{name: getattr(self, name)[masks.get(name, kept)] for name in _TENSORS},
        )

    def tensors(self) -> dict[str, Any]:
        """All of it as tensors in dictionaries."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in _TENSORS}
        for name in ("slabs", "orbits", "kept"):
            part = getattr(self, name)
            plain[name] = part and {f.name: getattr(part, f.name) for f in fields(part)}
        return plain

    @classmethod
    def of_tensors(cls, plain: dict[str, Any], optimizer: str, device: torch.device) -> Flight:
        """What `tensors` was made from, on a device."""

        def built(part: type[Any], found: dict[str, Tensor]) -> Any:
            return part(**{name: value.to(device) for name, value in found.items()})

        return cls(
            slabs=built(Slabs, plain["slabs"]),
            orbits=plain["orbits"] and built(Orbits, plain["orbits"]),
            kept=built(STATES[optimizer], plain["kept"]),
            **{name: plain[name].to(device) for name in _TENSORS},
        )

    def _strain(self, position: Tensor, layout: Rows) -> Tensor:
        """(S, K) coordinates of the cells."""
        return position[layout.cells] / _cell_factor(self.slabs)


_TENSORS = [f.name for f in fields(Flight) if f.name not in ("slabs", "orbits", "kept")]


def join(parts: Sequence[Flight]) -> Flight:
    """Those of several parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    orbits = [part.orbits for part in parts if part.orbits is not None]
    return Flight(
        slabs=slabs_room.join([part.slabs for part in parts]),
        orbits=symmetry.join(orbits) if orbits else None,
        kept=rows.join([part.kept for part in parts]),
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS},
    )


def _cell_factor(slabs: Slabs) -> Tensor:
    """(S, 1) Å that a strain of one counts for beside positions, see `InPlaneCellFilter`."""
    return torch.sqrt(2 * slabs.n_atoms.to(slabs.pos.dtype))[:, None]


def _apply(vectors: Tensor, matrices: Tensor) -> Tensor:
    """(N, 3) row vectors times matrices (N, 3, 3)."""
    return (vectors.unsqueeze(2) * matrices).sum(1)
