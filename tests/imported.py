"""Imported public checkpoints against what their own packages say of them."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import mx2

from mlff2d.atoms import to_graph
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.checkpoint import save
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.potential import Potential
from tests.parity.shared_structures import shared_structures
from tests.shared import DATA

CHECKPOINTS = DATA.parent / "checkpoints"
STORED = Path(__file__).parent / "parity"


def same_on_shared_structures(potential: Potential, name: str) -> None:
    """Assert the peer's energies and forces, stored as import-<name>.npz, to 1e-4 eV and eV/Å."""
    energies, forces = [], []
    for atoms in shared_structures():
        found = potential.double()(to_graph(atoms, potential.cutoff), virial=False)
        energies.append(float(found.energy))
        assert found.forces is not None
        forces.append(found.forces.numpy())
    with np.load(STORED / f"import-{name}.npz") as peer:
        assert np.abs(np.array(energies) - peer["energies"]).max() < 1e-4
        assert np.abs(np.concatenate(forces) - peer["forces"]).max() < 1e-4


def same_lattice_constant(potential: Potential, name: str) -> None:
    """Assert the peer's lattice constant of a monolayer of MoS2 to 1e-3 Å."""
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=7.5)
    calculator = MLFF2DCalculator(potential, dtype="float64")
    result = relax(atoms, calculator, RelaxSettings(fmax=1e-3, smax=1e-3))
    assert result.status == "converged"
    with np.load(STORED / f"import-{name}.npz") as peer:
        expected = float(peer["lattice_constant"])
    assert result.atoms.cell.lengths()[0] == pytest.approx(expected, abs=1e-3)


def same_from_a_file(potential: Potential, folder: Path) -> None:
    """Assert that a potential, saved and loaded, gives what it gave."""
    save(potential, folder / "model.pt")
    atoms = mx2("MoS2", kind="2H", a=3.2, thickness=3.1, vacuum=7.5)
    atoms.rattle(0.05, seed=1)
    results = []
    for model in (potential, folder / "model.pt"):
        atoms.calc = MLFF2DCalculator(model, dtype="float64")
        results.append((atoms.get_potential_energy(), atoms.get_forces()))
    (energy, forces), (energy_again, forces_again) = results
    assert energy_again == pytest.approx(energy, abs=1e-9)
    assert forces_again == pytest.approx(forces, abs=1e-9)
