"""Relaxation of one slab: its atoms and its cell in the plane, never its vacuum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import FIRE
from numpy.typing import NDArray

from mlff2d import slab
from mlff2d.atoms import in_plane_virial
from mlff2d.errors import StructureError

from ..lattice import lattice_type
from ..slabs import require_slab
from .filters import InPlaneCellFilter
from .guards import collapsed, detached

Array = NDArray[np.floating]

CONVERGED = "converged"
MAX_STEPS = "max-steps"
EXPLODED = "exploded"
DETACHED = "detached"
FAILED = "failed"
STATUSES = (CONVERGED, MAX_STEPS, EXPLODED, DETACHED, FAILED)

FMAX = 0.02
"""eV/Å, the default threshold on the largest force on an atom."""

SMAX = 0.05
"""N/m, the default threshold on the in-plane stress: 0.0004 of strain in MoS2 (130 N/m)."""

STEPS = 1000
"""The default number of steps after which a relaxation gives up."""

_RUNAWAY_FORCE = 100.0  # eV/Å, unless the start is a tenth as bad
_RUNAWAY_STRETCH = 2.0


@dataclass(frozen=True)
class RelaxResult:
    """What a relaxation reached.

    Attributes
    ----------
    atoms : the last geometry with finite forces, its energy, forces and, where the cell has a
        volume, stress attached; periodicity, vacuum vector and the image of each atom as given
    status : "converged", "max-steps", "exploded" or "detached"
    reason : a sentence where the status is not "converged", else ""
    steps : steps taken
    energy : eV
    fmax : largest force on an atom in eV/Å
    stress_2d : (3,) in-plane stress (xx, yy, xy) in N/m in the axes of `mlff2d.slab.plane_axes`;
        NaN where the cell was fixed and the calculator gives no stress
    smax : largest absolute principal value of the in-plane stress in N/m
    area_before, area_after : Å² per atom
    thickness : extent of the nuclei along the normal in Å
    lattice_before, lattice_after : see `mlff2d.md.lattice`
    """

    atoms: Atoms
    status: str
    reason: str
    steps: int
    energy: float
    fmax: float
    stress_2d: Array
    smax: float
    area_before: float
    area_after: float
    thickness: float
    lattice_before: str
    lattice_after: str


@dataclass(frozen=True)
class _State:
    step: int
    pos: Array
    cell: Array
    energy: float
    forces: Array
    fmax: float
    stress_2d: Array
    smax: float
    stress: Array | None


def relax(
    atoms: Atoms,
    calculator: Any,
    *,
    fmax: float = FMAX,
    smax: float = SMAX,
    steps: int = STEPS,
    fix_cell: bool = False,
) -> RelaxResult:
    """Relax a slab with FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006).

    Converged means that at the geometry returned no atom has a force above `fmax` eV/Å and no
    principal value of the in-plane stress is above `smax` N/m in size; the latter is not asked for
    with `fix_cell`. The Atoms given are not changed, and the calculator may be used on many
    structures in turn.

    Raises StructureError for a structure that is not a slab or that the calculator refuses as it
    stands; what goes wrong on the way is a status.
    """
    canonical = require_slab(atoms)
    working = atoms.copy()
    working.positions = canonical.pos
    working.pbc = canonical.pbc
    start = working.copy()
    calculator.reset()
    working.calc = calculator
    movable = working if fix_cell else InPlaneCellFilter(working)
    first = state = _measure(working, 0, fix_cell)
    status, reason = MAX_STEPS, ""
    try:
        # The optimiser's own criterion mixes units; it is switched off and ours decides.
        for step, _ in enumerate(FIRE(movable, logfile=None).irun(fmax=0.0, steps=steps)):
            state = _measure(working, step, fix_cell)
            reason = _runaway(first, state, canonical.pbc)
            if reason:
                status = EXPLODED
                break
            if state.fmax <= fmax and (fix_cell or state.smax <= smax):
                status = CONVERGED
                break
    except (StructureError, np.linalg.LinAlgError) as error:
        status, reason = EXPLODED, f"after {state.step} steps {error}"
    final = start.copy()
    final.cell, final.positions = state.cell, state.pos
    if status != EXPLODED:
        if fell := collapsed(final, canonical.pbc):
            status, reason = EXPLODED, fell
        elif apart := detached(start, final, canonical.pbc):
            status, reason = DETACHED, apart
        elif status == MAX_STEPS:
            reason = f"not converged after {state.step} steps; give it more steps"
    return _result(atoms, start, final, canonical.pbc, state, status, reason)


def _measure(atoms: Atoms, step: int, fix_cell: bool) -> _State:
    """The state of the atoms; StructureError where the calculator refuses or returns NaN."""
    energy = float(atoms.get_potential_energy())
    forces = atoms.get_forces()
    try:
        virial = in_plane_virial(atoms)
    except StructureError:
        if not fix_cell:
            raise
        virial = np.full((3, 3), np.nan)
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise StructureError("the calculator returned NaN or infinity")
    if not (fix_cell or np.isfinite(virial).all()):
        raise StructureError("the calculator returned a stress that is NaN or infinite")
    xx, yy, xy = slab.stress_2d(virial, atoms.cell.array, atoms.pbc)
    # Of the principal values (xx + yy)/2 ± r the one farther from zero; no choice of axes enters.
    smax = abs(xx + yy) / 2 + np.hypot((xx - yy) / 2, xy)
    volume = abs(np.linalg.det(atoms.cell.array))
    return _State(
        step=step,
        pos=atoms.positions.copy(),
        cell=atoms.cell.array.copy(),
        energy=energy,
        forces=forces,
        fmax=float(np.linalg.norm(forces, axis=1).max()),
        stress_2d=np.array([xx, yy, xy]),
        smax=float(smax),
        stress=virial / volume if volume > 1e-6 else None,
    )


def _runaway(first: _State, state: _State, pbc: NDArray[np.bool_]) -> str:
    """A sentence where a relaxation has left all bounds, else ""."""
    if state.fmax > max(_RUNAWAY_FORCE, 10 * first.fmax):
        return f"a force grew to {state.fmax:.0f} eV/Å after {state.step} steps"
    before, now = (c[pbc] @ c[pbc].T for c in (first.cell, state.cell))
    stretches = np.sqrt(np.abs(np.linalg.eigvals(np.linalg.solve(before, now))))
    if stretches.max() > _RUNAWAY_STRETCH or stretches.min() < 1 / _RUNAWAY_STRETCH:
        return (
            f"the cell was stretched to {stretches.min():.2f} and {stretches.max():.2f} times "
            f"itself after {state.step} steps"
        )
    return ""


def _result(
    atoms: Atoms,
    start: Atoms,
    final: Atoms,
    pbc: NDArray[np.bool_],
    state: _State,
    status: str,
    reason: str,
) -> RelaxResult:
    returned = atoms.copy()
    cell = atoms.cell.array.copy()
    cell[pbc] = state.cell[pbc]
    returned.set_cell(cell, apply_constraint=False)
    offset = atoms.positions - start.positions
    returned.set_positions(state.pos + offset, apply_constraint=False)
    results: dict[str, Any] = {"energy": state.energy, "forces": state.forces}
    if state.stress is not None and np.isfinite(state.stress).all():
        results["stress"] = state.stress.ravel()[[0, 4, 8, 5, 2, 1]]
    returned.calc = SinglePointCalculator(returned, **results)
    n_atoms = len(atoms)
    return RelaxResult(
        atoms=returned,
        status=status,
        reason=reason,
        steps=state.step,
        energy=state.energy,
        fmax=state.fmax,
        stress_2d=state.stress_2d,
        smax=state.smax,
        area_before=slab.area(start.cell.array, pbc) / n_atoms,
        area_after=slab.area(final.cell.array, pbc) / n_atoms,
        thickness=slab.thickness(final.positions, final.cell.array, pbc),
        lattice_before=lattice_type(start),
        lattice_after=lattice_type(final),
    )
