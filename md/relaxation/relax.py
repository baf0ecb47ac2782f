"""Relaxation of one slab with ASE: its atoms and its cell in the plane, never its vacuum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.optimize import FIRE, LBFGS
from ase.optimize.optimize import Optimizer

from mlff2d.atoms import in_plane_virial
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.errors import StructureError

from ..slabs import Slabs, one_slab, require_slab
from . import cell as strain
from . import lbfgs
from .filters import InPlaneCellFilter
from .outcome import Reached, judge, measure, runaways
from .result import RelaxResult
from .settings import DEFAULTS, RelaxSettings


def relax(atoms: Atoms, calculator: Any, settings: RelaxSettings = DEFAULTS) -> RelaxResult:
    """Relax a slab with FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006) or L-BFGS.

    Converged means that at the geometry returned forces and stress are below the thresholds of the
    settings, and that it is still the layer given; see `STATUSES` for what else may come. The Atoms
    given are not changed, and the calculator may be used on many structures in turn. Only
    `MLFF2DCalculator` in float32 has something to polish; where the steps do not suffice for that,
    the status says so.

    Raises StructureError for a structure that is not a slab or that the calculator refuses as it
    stands, and for settings that it contradicts; what goes wrong on the way is a status.
    """
    canonical = require_slab(atoms)
    working = atoms.copy()
    working.positions, working.pbc = canonical.pos, canonical.pbc
    calculator.reset()
    working.calc = calculator
    descent = _Descent(working, settings)
    if settings.polish and _is_single(calculator):
        reached = descent.run(settings.before_polish())
        if reached.met:
            working.calc = MLFF2DCalculator(
                calculator.potential, device=str(calculator.device), dtype="float64"
            )
            reached = descent.run(settings)
    else:
        reached = descent.run(settings)
    return judge(atoms, replace(reached, symmetrized=descent.symmetrized))


def relax_with(atoms: Atoms, calculator: Any, **settings: Any) -> RelaxResult:
    """`relax` with settings by their names, for those who cannot know `RelaxSettings`."""
    return relax(atoms, calculator, RelaxSettings(**settings))


def _is_single(calculator: Any) -> bool:
    return isinstance(calculator, MLFF2DCalculator) and calculator.dtype != torch.float64


class _LBFGS(LBFGS):
    """ASE's, which forgets a step along which the energy does not curve up; see `lbfgs`."""

    def update(self, *args: Any) -> None:
        with np.errstate(divide="ignore"):  # it may be at rest
            super().update(*args)
        history: Any = getattr(self, "state", self)  # where it is depends on the version of ASE
        if history.rho and not 0 < history.rho[-1] < np.inf:
            history.rho[-1] = 0.0


class _Descent:
    """The way down of one slab in canonical form, with its calculator.

    Raises StructureError where it cannot begin.
    """

    def __init__(self, atoms: Atoms, settings: RelaxSettings) -> None:
        self._atoms = atoms
        self._movable: Atoms | InPlaneCellFilter = atoms
        self.symmetrized = 0.0
        self._basis = torch.zeros(1, strain.N_COORDINATES, 2, 2, dtype=torch.float64)
        # With a fixed cell and no symmetry ASE keeps every constraint without our help.
        if settings.cell != "fixed" or settings.symmetry:
            movable = InPlaneCellFilter(atoms, settings.cell, settings.pressure, settings.symmetry)
            self._movable = movable
            self.symmetrized, self._basis = movable.symmetrized, movable.basis
        free = atoms.copy()
        free.set_constraint()
        self._start: Slabs = one_slab(free, key=0)
        self._axes = strain.plane_axes(self._start.cell, self._start.pbc)
        self._last = self._measured(0, settings)
        self._first_fmax = torch.tensor([self._last.fmax], dtype=torch.float64)

    def run(self, settings: RelaxSettings) -> Reached:
        """Go on until it is done, one way or another; the steps of an earlier run count."""
        taken = self._last.steps
        try:
            # The optimiser's own criterion mixes units; it is switched off and ours decides.
            way = self._optimizer(settings).irun(fmax=0.0, steps=settings.steps - taken)
            for step, _ in enumerate(way, start=taken):
                self._last = self._measured(step, settings)
                if self._last.met or self._last.trouble:
                    break
        except StructureError as error:
            self._last = replace(self._last, met=False, trouble=str(error))
        return self._last

    def _optimizer(self, settings: RelaxSettings) -> Optimizer:
        if settings.optimizer == "lbfgs":
            return _LBFGS(self._movable, logfile=None, memory=lbfgs.MEMORY)  # type: ignore[arg-type]
        return FIRE(self._movable, logfile=None)

    def _measured(self, step: int, settings: RelaxSettings) -> Reached:
        """Where it is; StructureError where the calculator refuses or returns NaN."""
        atoms = self._atoms
        energy = float(atoms.get_potential_energy())
        forces = atoms.get_forces(apply_constraint=False)
        free = forces.copy()
        for constraint in atoms.constraints:
            constraint.adjust_forces(atoms, free)
        try:
            virial = in_plane_virial(atoms)
        except StructureError:
            if settings.cell != "fixed":
                raise
            virial = np.full((3, 3), np.nan)
        if not np.isfinite(energy) or not np.isfinite(forces).all():
            raise StructureError("the calculator returned NaN or infinity")
        if settings.cell != "fixed" and not np.isfinite(virial).all():
            raise StructureError("the calculator returned a stress that is NaN or infinite")
        slabs = self._start.moved(
            torch.from_numpy(atoms.positions.copy()),
            torch.from_numpy(atoms.cell.array.copy())[None],
        )
        found = measure(
            slabs,
            torch.from_numpy(free),
            torch.from_numpy(virial)[None],
            self._axes,
            self._basis,
            settings,
        )
        first_fmax = found.fmax if step == 0 else self._first_fmax
        trouble = runaways(first_fmax, found.fmax, self._start.cell, slabs)
        return Reached(
            steps=step,
            pos=slabs.pos.numpy(),
            cell=slabs.cell[0].numpy(),
            energy=energy,
            forces=forces,
            virial=virial,
            fmax=float(found.fmax),
            smax=float(found.smax),
            met=bool(found.met),
            trouble=trouble.get(0, ""),
        )
