"""Lattice constants of well-known monolayers beside PBE.

    python -m benchmarks.lattice_constants [NAME ...] [--model model.pt]

or, with any calculator of `mlff2d label`:

    python -m benchmarks.lattice_constants MoS2 TiS2 hBN graphene --write starts.extxyz
    mlff2d label starts.extxyz -o way.extxyz --with gpaw --steps 20
    python -m benchmarks.lattice_constants --labels way.extxyz

Relaxes atoms and in-plane cell in float64 and prints a (and b) in Å. PBE values are rounded from
the literature, which agrees on them to about 0.01 Å (of the dichalcogenides see Rasmussen and
Thygesen, J. Phys. Chem. C 119, 13169, 2015).
"""

import argparse

import ase.io
import numpy as np
from ase import Atoms
from ase.build import graphene, mx2
from numpy.typing import NDArray

from mlff2d import MLFF2DCalculator
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.settings import RelaxSettings

PBE = {
    "MoS2": (3.18,),
    "WS2": (3.18,),
    "MoSe2": (3.32,),
    "WSe2": (3.32,),
    "MoTe2": (3.55,),
    "NbS2": (3.35,),
    "NbSe2": (3.47,),
    "TaS2": (3.34,),
    "TiS2": (3.41,),
    "ZrS2": (3.68,),
    "HfS2": (3.64,),
    "SnS2": (3.70,),
    "PtS2": (3.57,),
    "PtSe2": (3.75,),
    "GaS": (3.63,),
    "GaSe": (3.82,),
    "InSe": (4.09,),
    "hBN": (2.51,),
    "graphene": (2.47,),
    "silicene": (3.87,),
    "germanene": (4.06,),
    "phosphorene": (3.30, 4.62),
}
"""1H for the dichalcogenides of Mo, W, Nb and Ta, 1T for the others."""

_THICKNESS = {
    "MoS2": 3.13,
    "WS2": 3.14,
    "MoSe2": 3.34,
    "WSe2": 3.36,
    "MoTe2": 3.61,
    "NbS2": 3.13,
    "NbSe2": 3.36,
    "TaS2": 3.13,
}
"""Å between the outer atoms, of 1H."""

_THICKNESS_1T = {
    "TiS2": 2.85,
    "ZrS2": 2.9,
    "HfS2": 2.9,
    "SnS2": 2.96,
    "PtS2": 2.47,
    "PtSe2": 2.65,
}

_HONEYCOMBS = {
    "hBN": ("BN", 0.0),
    "graphene": ("C2", 0.0),
    "silicene": ("Si2", 0.45),
    "germanene": ("Ge2", 0.69),
}
"""Formula and buckling in Å."""

_DOUBLE_LAYERS = {"GaS": (2.47, 4.64), "GaSe": (2.47, 4.78), "InSe": (2.82, 5.37)}
"""Å between the two metals and between the two chalcogens of a cell."""


def monolayer(name: str) -> Atoms:
    """An idealised cell, two per cent too large."""
    a = PBE[name][0] * 1.02
    if name in _HONEYCOMBS:
        formula, buckling = _HONEYCOMBS[name]
        return graphene(formula, a=a, thickness=buckling, vacuum=7.5)
    if name == "phosphorene":
        a, b = 3.37, 4.71
        positions = [[0, 0.085 * b, 1.05], [a / 2, 0.415 * b, 1.05]]
        positions += [[a / 2, 0.585 * b, -1.05], [0, 0.915 * b, -1.05]]
        atoms = Atoms("P4", positions, cell=[a, b, 17.0], pbc=(True, True, False))
        atoms.center(axis=2)
        return atoms
    if name in _DOUBLE_LAYERS:
        inner, outer = _DOUBLE_LAYERS[name]
        heights = [inner / 2, -inner / 2, outer / 2, -outer / 2]
        cell = [[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 20]]
        atoms = Atoms(f"{name[:2]}2{name[2:]}2", cell=cell, pbc=(True, True, False))
        places = [(0, 0)] * 2 + [(2 / 3, 1 / 3)] * 2
        atoms.set_scaled_positions(
            [(x, y, 0.5 + h / 20) for (x, y), h in zip(places, heights, strict=True)]
        )
        return atoms
    kind = "1T" if name in _THICKNESS_1T else "2H"
    thickness = (_THICKNESS | _THICKNESS_1T)[name]
    return mx2(name, kind=kind, a=a, thickness=thickness, vacuum=7.5)


def row(name: str, status: str, found: NDArray[np.float64]) -> list[float]:
    """Print what was found beside PBE; the deviations in percent."""
    reference = np.array(PBE[name])
    found = found[: len(reference)]
    deviation: list[float] = (100 * (found / reference - 1)).tolist()
    texts = ["  ".join(f"{x:.3f}" for x in v) for v in (found, reference)]
    print(
        f"{name:12s}  {status:13s}  {texts[0]:14s}  {texts[1]:14s}  "
        + "  ".join(f"{x:+.2f}" for x in deviation)
    )
    return deviation


def main() -> None:
    """Print a row for each monolayer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*PBE, []], metavar="NAME", help="default: all")
    parser.add_argument("--model", default=None, help="model file; default: the shipped model")
    parser.add_argument("--write", metavar="FILE", help="only write the starts")
    parser.add_argument("--labels", metavar="FILE", help="what mlff2d label --steps made of them")
    args = parser.parse_args()
    names = args.names or list(PBE)
    if args.write:
        starts = [monolayer(name) for name in names]
        for name, atoms in zip(names, starts, strict=True):
            atoms.info = {"material": name}
        ase.io.write(args.write, starts)
        return
    print("monolayer     status         a (b) / Å       PBE / Å         deviation %")
    deviations = []
    if args.labels:
        last = {atoms.info["material"]: atoms for atoms in ase.io.iread(args.labels)}
        for name, atoms in last.items():
            status = "converged" if atoms.info["converged"] else "not converged"
            deviations += row(name, status, atoms.cell.lengths())
    else:
        calculator = MLFF2DCalculator(args.model, dtype="float64")
        for name in names:
            result = relax(monolayer(name), calculator, RelaxSettings(fmax=0.005, smax=0.01))
            deviations += row(name, result.status, result.atoms.cell.lengths())
    print(f"mean absolute deviation {np.mean(np.abs(deviations)):.2f} %")


if __name__ == "__main__":
    main()
