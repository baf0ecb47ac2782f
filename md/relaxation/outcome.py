"""What became of a relaxation: one judgement for every way that slabs are relaxed.

Axes: S structures, N atoms of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray
from torch import Tensor

from mlff2d import slab
from mlff2d.symmetry import LayerSymmetry, layer_symmetry
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

from ..lattice import SYMPREC, lattice_of_group
from ..slabs import Slabs, require_slab
from . import cell as strain
from .guards import Layer, collapsed, detached, merged, recoordinated
from .result import CONVERGED, DETACHED, EXPLODED, MAX_STEPS, MERGED, REBUILT, RelaxResult
from .settings import RelaxSettings

Array = NDArray[np.floating]

COARSE_SYMPREC = 0.1
"""Å. Two layer groups differ where they do so at `SYMPREC` and at this."""

MAX_ATOMS = 2000
"""Of more atoms no group is looked for: the time for it grows with the square, two seconds here."""

_RUNAWAY_FORCE = 100.0  # eV/Å, unless the start is a tenth as bad
_RUNAWAY_STRETCH = 2.0


@dataclass(frozen=True)
class Measured:
    """What convergence is judged by.

    Attributes
    ----------
    fmax : (S,) eV/Å, largest force on an atom that is not held
    smax : (S,) N/m, see `RelaxResult.smax`
    met : (S,) bool, whether both are below their thresholds
    """

    fmax: Tensor
    smax: Tensor
    met: Tensor


def measure(
    slabs: Slabs,
    forces: Tensor,
    virial: Tensor,
    axes: Tensor,
    basis: Tensor,
    settings: RelaxSettings,
) -> Measured:
    """Forces (N, 3) and virials dE/dstrain (S, 3, 3) against the thresholds.

    `axes` and `basis` are those of the undeformed cells, see `cell`. NaN meets no threshold, but a
    fixed cell has none for the virial.
    """
    norms = torch.linalg.vector_norm(forces, dim=1).masked_fill(slabs.held, 0.0)
    fmax = norms.new_zeros(slabs.n_structures).scatter_reduce(0, slabs.batch, norms, "amax")
    area = slab.batched_area(slabs.cell, slabs.pbc)
    virial = strain.enthalpy_virial(virial, area, axes, settings.pressure)
    stress = axes @ virial @ axes.transpose(1, 2)
    stress = stress * (EV_PER_ANGSTROM2_IN_N_PER_M / area)[:, None, None]
    if settings.cell == "fixed":
        return Measured(fmax, strain.principal(stress), fmax <= settings.fmax)
    smax = strain.principal(strain.free_stress(stress, basis))
    return Measured(fmax, smax, (fmax <= settings.fmax) & (smax <= settings.smax))


def runaways(first_fmax: Tensor, fmax: Tensor, first_cell: Tensor, slabs: Slabs) -> dict[int, str]:
    """A sentence for each of the structures (by its place in S) that has left all bounds.

    `first_fmax` (S,) and `first_cell` (S, 3, 3) are those of the start, `fmax` (S,) is as measured.
    """
    before, now = (torch.stack(strain.in_plane(c, slabs.pbc), 1) for c in (first_cell, slabs.cell))
    ratio = torch.linalg.solve(before @ before.transpose(1, 2), now @ now.transpose(1, 2))
    half = (ratio[:, 0, 0] + ratio[:, 1, 1]) / 2
    spread = (half**2 - torch.linalg.det(ratio)).clamp_min(0).sqrt()
    stretch = torch.stack([half - spread, half + spread], 1).clamp_min(0).sqrt()
    torn = (stretch < 1 / _RUNAWAY_STRETCH).any(1) | (stretch > _RUNAWAY_STRETCH).any(1)
    pushed = fmax > torch.clamp_min(10 * first_fmax, _RUNAWAY_FORCE)
    found = {}
    for s in torch.nonzero(torn | pushed)[:, 0].tolist():
        if pushed[s]:
            found[s] = f"a force grew to {float(fmax[s]):.0f} eV/Å"
        else:
            low, high = stretch[s].tolist()
            found[s] = f"the cell was stretched to {low:.2f} and {high:.2f} times itself"
    return found


@dataclass(frozen=True)
class Reached:
    """Where a relaxation stopped: the last geometry with finite numbers.

    Attributes
    ----------
    steps : steps taken to it
    pos : (N, 3) Å in the form of `mlff2d.slab.canonical`, followed from the start
    cell : (3, 3) Å
    energy : eV
    forces : (N, 3) eV/Å
    virial : (3, 3) dE/dstrain in eV; NaN where there is none
    fmax, smax, met : see `measure`
    trouble : why it could not go on, "" where nothing forbade it
    symmetrized : see `RelaxResult`
    """

    steps: int
    pos: Array
    cell: Array
    energy: float
    forces: Array
    virial: Array
    fmax: float
    smax: float
    met: bool
    trouble: str = ""
    symmetrized: float = 0.0


def judge(atoms: Atoms, reached: Reached) -> RelaxResult:
    """What a relaxation of `atoms`, as they were given, came to.

    Raises StructureError where they are no slab.
    """
    canonical = require_slab(atoms)
    pbc = canonical.pbc
    before = Layer(_bare(atoms, canonical.pos, atoms.cell.array), pbc)
    after = Layer(_bare(atoms, reached.pos, reached.cell), pbc)
    group_before = _group(before, SYMPREC)
    status, reason = _broken(before, after, reached, atoms.cell.array[canonical.axis])
    # Of atoms on top of each other a group means nothing, and looking for it may take for ever.
    group_after = None if status == EXPLODED else _group(after, SYMPREC)
    if not status:
        status, reason = _changed(before, after, group_before, group_after, reached)
    number_before, number_after = (g.number if g else 0 for g in (group_before, group_after))
    returned = _returned(atoms, canonical, reached)
    return RelaxResult(
        atoms=returned,
        status=status,
        reason=reason,
        met=reached.met,
        steps=reached.steps,
        energy=reached.energy,
        fmax=reached.fmax,
        stress_2d=slab.stress_2d(reached.virial, reached.cell, pbc),
        smax=reached.smax,
        area_before=slab.area(atoms.cell.array, pbc) / len(atoms),
        area_after=slab.area(reached.cell, pbc) / len(atoms),
        thickness=slab.thickness(reached.pos, reached.cell, pbc),
        symmetrized=reached.symmetrized,
        layer_group_before=number_before,
        layer_group_after=number_after,
        lattice_before=lattice_of_group(number_before),
        lattice_after=lattice_of_group(number_after),
    )


def _broken(before: Layer, after: Layer, reached: Reached, vacuum: Array) -> tuple[str, str]:
    """Status and reason where it is no layer any more, or not the end of a relaxation; else ""."""
    trouble = f"after {reached.steps} steps {reached.trouble}" if reached.trouble else ""
    if trouble := trouble or collapsed(after):
        return EXPLODED, trouble
    if apart := detached(before, after):
        return DETACHED, apart
    if bonded := merged(before, after, vacuum):
        return MERGED, bonded
    if not reached.met:
        return MAX_STEPS, f"not converged after {reached.steps} steps; give it more steps"
    return "", ""


def _changed(
    before: Layer,
    after: Layer,
    group_before: LayerSymmetry | None,
    group_after: LayerSymmetry | None,
    reached: Reached,
) -> tuple[str, str]:
    """Status and reason of a relaxation that came to its end."""
    if bonds := recoordinated(before, after):
        return REBUILT, bonds
    if (
        group_before is not None
        and group_before.number > 1
        and _differ(group_before, group_after)
        and _differ(_group(before, COARSE_SYMPREC), _group(after, COARSE_SYMPREC))
    ):
        names = [_name(group) for group in (group_before, group_after)]
        return REBUILT, f"the layer group changed from {names[0]} to {names[1]}"
    return CONVERGED, ""


def _differ(one: LayerSymmetry | None, other: LayerSymmetry | None) -> bool:
    """Whether groups differ, or one has more operations in the same cell, as where it doubled."""
    if one is None or other is None:
        return one is not other
    return (one.number, len(one)) != (other.number, len(other))


def _name(group: LayerSymmetry | None) -> str:
    if group is None:
        return "none that can be told"
    return f"{group.number} ({len(group)} operations in the cell)"


def _group(layer: Layer, symprec: float) -> LayerSymmetry | None:
    atoms = layer.atoms
    if len(atoms) > MAX_ATOMS:
        return None
    return layer_symmetry(atoms.numbers, atoms.positions, atoms.cell.array, layer.pbc, symprec)


def _bare(atoms: Atoms, pos: Array, cell: Array) -> Atoms:
    return Atoms(numbers=atoms.numbers, positions=pos, cell=cell)


def _returned(atoms: Atoms, canonical: slab.Slab, reached: Reached) -> Atoms:
    """The structure as it was given, moved, with what was calculated for it."""
    returned = atoms.copy()
    cell = atoms.cell.array.copy()
    cell[canonical.pbc] = reached.cell[canonical.pbc]
    returned.set_cell(cell, apply_constraint=False)
    # Atoms beyond the boundary of the vacuum go back there.
    offset = atoms.positions - canonical.pos
    returned.set_positions(reached.pos + offset, apply_constraint=False)
    results: dict[str, Any] = {"energy": reached.energy, "forces": reached.forces}
    volume = abs(np.linalg.det(cell))
    if volume > 1e-6 and np.isfinite(reached.virial).all():
        results["stress"] = (reached.virial / volume).ravel()[[0, 4, 8, 5, 2, 1]]
    returned.calc = SinglePointCalculator(returned, **results)
    return returned
