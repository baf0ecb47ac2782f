"""The ASE calculator."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mlff2d import slab
from mlff2d.atoms import canonical_slab, graph_from_edges, not_finite
from mlff2d.checkpoint import load
from mlff2d.compiled import use_compiled_code
from mlff2d.devices import pick_device
from mlff2d.errors import StructureError
from mlff2d.neighbors import SkinList
from mlff2d.potential import Potential

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class MLFF2DCalculator(Calculator):
    """Energy, forces and stress of slabs, bulk crystals and molecules.

    Parameters
    ----------
    model : path of a model file, name of a shipped model, a `Potential`, or None for the shipped
        universal model
    device : "cpu", "cuda", ...; None takes a GPU where there is one
    dtype : "float32" to screen, "float64" to polish
    compile : "auto" uses compiled code where a CPU, a C compiler and the model allow it, "yes"
        warns where they do not, "no" does not; see `mlff2d.compiled`

    Results
    -------
    energy, free_energy : eV (equal: there is no electronic temperature)
    energies : (N,) eV
    forces : (N, 3) eV/Å
    stress : (6,) eV/Å³ in ASE's Voigt order, tension positive, without any component along a
        direction that is not periodic; absent where the cell has no volume
    stress_2d : (3,) in-plane stress (xx, yy, xy) in N/m, the same whatever the vacuum: in the
        frame of the Atoms where z is the normal, else along the first lattice vector in the plane;
        for slabs only
    virial : (3, 3) dE/dstrain in eV

    A fully periodic cell with an empty layer of 4.5 Å or more along exactly one axis is a slab; see
    `mlff2d.slab`.

    Raises
    ------
    ModelFileError for a file that is no model; ValueError for a device that is not there, another
    dtype or another word for `compile`; StructureError, when calculating, for a structure
    with NaN, atoms on top of each other, a degenerate cell or an element the model never saw.
    """

    implemented_properties = [  # noqa: RUF012 (an attribute of ASE's class)
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "stress_2d",
        "virial",
    ]

    def __init__(
        self,
        model: str | Path | Potential | None = None,
        *,
        device: str | None = None,
        dtype: str = "float32",
        compile: str = "auto",
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"dtype is 'float32' or 'float64', not {dtype!r}")
        self.device = pick_device(device)
        self.dtype = DTYPES[dtype]
        # A copy, so that a potential in training keeps its precision and mode.
        potential = (
            deepcopy(model)
            if isinstance(model, Potential)
            else load(model, self.device, self.dtype)
        )
        self.potential = potential.to(device=self.device, dtype=self.dtype).eval()
        self.potential.requires_grad_(False)
        use_compiled_code(self.potential, compile)
        self._skin_list = SkinList(self.potential.cutoff)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation; ASE looks at everything but `info`."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        for key in self.potential.model.state:
            if self.atoms is not None and atoms.info.get(key) != self.atoms.info.get(key):
                changes.append(f"info[{key!r}]")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `results` with everything listed above; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        atoms = self.atoms
        canonical = canonical_slab(atoms)
        self.potential.check_elements(atoms.numbers)
        cell = atoms.cell.array
        edges = self._skin_list.get(canonical.pos, cell, canonical.pbc)
        graph = graph_from_edges(atoms, canonical, edges, self.potential.model.state)
        prediction = self.potential(graph.to(self.device), create_graph=False)
        assert prediction.forces is not None
        assert prediction.virial is not None
        energy = float(prediction.energy)
        forces = prediction.forces.cpu().double().numpy()
        virial = prediction.virial[0].cpu().double().numpy()
        if not (np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(virial).all()):
            raise StructureError(not_finite(atoms.numbers))
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": prediction.energies.cpu().numpy(),
            "forces": forces,
            "virial": virial,
        }
        self.results.update(_stresses(virial, cell, canonical))


def _stresses(virial: np.ndarray, cell: np.ndarray, canonical: slab.Slab) -> dict[str, Any]:
    stresses = {}
    volume = abs(np.linalg.det(cell))
    if volume > 1e-6:
        stresses["stress"] = full_3x3_to_voigt_6_stress(virial / volume)
    if canonical.axis is not None:
        stresses["stress_2d"] = slab.stress_2d(virial, cell, canonical.pbc)
    return stresses
