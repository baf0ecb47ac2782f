"""How exact the derivatives are, and how far one slab written in many ways gives one answer.

    python -m benchmarks.slab_checks [--model model.pt]

In float64, for random weights of every model and for the shipped (or given) model. Forces and
in-plane virial against central differences of fourth order: the largest deviation relative to the
largest component. One slab, one answer: the largest deviation of energy per atom, forces and
in-plane stress over the ways in which `mlff2d.checking.slabs` writes a slab. `mlff2d check` judges
one model by these and more.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mlff2d import MLFF2DCalculator, slab
from mlff2d.derivatives import numerical_forces, numerical_virial
from mlff2d.models import REGISTRY
from tests.potentials import random_potential
from tests.structures import VARIANTS, mos2, variant


def derivative_errors(calculator: MLFF2DCalculator, atoms: Atoms) -> tuple[float, float]:
    """Largest relative deviations of forces and of the in-plane virial."""
    calculator.calculate(atoms)
    forces, virial = calculator.results["forces"], calculator.results["virial"]

    def energies(structures: Sequence[Atoms]) -> np.ndarray:
        found = []
        for moved in structures:
            calculator.calculate(moved)
            found.append(calculator.results["energy"])
        return np.array(found)

    by_moves = numerical_forces(energies, atoms)
    by_strain = numerical_virial(energies, atoms, np.eye(3)[:2])
    return (
        np.abs(forces - by_moves).max() / np.abs(forces).max(),
        np.abs(virial[:2, :2] - by_strain).max() / np.abs(virial).max(),
    )


def spread(calculator: MLFF2DCalculator) -> tuple[float, float, float]:
    """Largest deviations over all variants: eV/atom, eV/Å, N/m."""
    calculator.calculate(mos2())
    first = dict(calculator.results)
    worst = np.zeros(3)
    for case in VARIANTS:
        atoms, rotation = variant(case)
        calculator.calculate(atoms)
        found = calculator.results
        deviations = (
            abs(found["energy"] - first["energy"]) / len(atoms),
            np.abs(found["forces"] - first["forces"] @ rotation.T).max(),
            np.abs(found["stress_2d"] - first["stress_2d"]).max(),
        )
        worst = np.maximum(worst, deviations)
    energy, forces, stress = worst.tolist()
    return energy, forces, stress


def main() -> None:
    """Print a row for each potential."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="model file; default: the shipped model")
    args = parser.parse_args()
    calculators = {
        f"{name}, random": MLFF2DCalculator(random_potential(name), dtype="float64")
        for name in REGISTRY
    }
    calculators[args.model or "shipped"] = MLFF2DCalculator(args.model, dtype="float64")
    atoms = mos2()
    print(
        f"{slab.thickness(atoms.positions, atoms.cell.array, atoms.pbc):.2f} Å thick, rattled MoS2"
    )
    print(f"{'relative error of':20s}{'forces':>10s}{'virial':>10s}", end="")
    print(f"{f'over {len(VARIANTS)} ways:':>14s}{'eV/atom':>10s}{'eV/Å':>10s}{'N/m':>10s}")
    for name, calculator in calculators.items():
        derivatives = "".join(f"{x:10.1e}" for x in derivative_errors(calculator, atoms))
        print(
            f"{name:20s}{derivatives}{'':14s}" + "".join(f"{x:10.1e}" for x in spread(calculator))
        )


if __name__ == "__main__":
    main()
