"""Energies and tensions of monolayers under strain, beside those of the teacher.

Axes: M monolayers, D directions, P points of a curve.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from benchmarks.lattice_constants import monolayer
from mlff2d.errors import StructureError
from mlff2d.md.evaluator import Evaluator
from mlff2d.md.memory import edge_budget
from mlff2d.md.slabs import join, one_slab
from mlff2d.potential import Potential
from mlff2d.slab import batched_stress_2d
from mlff2d.training.evaluation.starts import structure
from mlff2d.training.evaluation.tables import Cell, Table
from mlff2d.training.figures.style import COLOURS, new_figure, png, styled

from .common import MODEL, TEACHER, Job, PartResult, relaxed

STRAINS = np.linspace(-0.15, 0.15, 31)
DIRECTIONS = ("biaxial", "x", "y")
KNOWN = ("MoS2", "NbS2", "TiS2", "hBN", "graphene", "phosphorene")
LARGEST = 8
"""Atoms of the held-out monolayers."""

Array = NDArray[np.float64]


def under_strain(job: Job) -> PartResult:
    """The same clamped structures for both: the teacher's minima, strained."""
    names, structures = _structures(job)
    geometry = [[a.numbers.tolist(), a.positions.tolist(), a.cell.tolist()] for a in structures]
    curves = {
        s.name: job.kept.get(
            "strain-curves",
            [s.sha256, STRAINS.tolist(), geometry],
            partial(_measure, structures, s.single),
        )
        for s in job.subjects
    }
    energy = {name: _above_rest(np.array(c["energy"], float)) for name, c in curves.items()}
    tension = {name: np.array(c["tension"], float) for name, c in curves.items()}
    off = np.abs(energy[MODEL] - energy[TEACHER])
    finite = bool(np.isfinite(energy[MODEL]).all())
    several = sum(_minima(curve) != 1 for curve in energy[MODEL].reshape(-1, len(STRAINS)))
    figures = {
        "mae": float(off.mean()),
        "median": float(np.median(off)),
        "finite": finite,
        "curves": off.shape[0] * off.shape[1],
        "curves without exactly one minimum": several,
        "roughness": float(_roughness(energy[MODEL]).max()),
        "roughness of the teacher": float(_roughness(energy[TEACHER]).max()),
    }
    n_known = len(set(names) & set(KNOWN))
    lines = [
        f"{len(names)} monolayers relaxed by the teacher ({n_known} well-known ones, the others "
        "held out), strained by -15 to +15 % in steps of 1 %, biaxially and along x and y, their "
        "atoms clamped: both potentials see the same structures. Pale in the figure: the teacher.",
        f"Energies above rest: MAE {figures['mae']:.1f} meV/atom, median {figures['median']:.1f}; "
        + ("all numbers are finite" if finite else "NOT all numbers are finite")
        + f"; {several} of {figures['curves']} curves do not have exactly one minimum. Roughness "
        f"at most {figures['roughness']:.2f} meV/atom (the teacher's curves: "
        f"{figures['roughness of the teacher']:.2f}).",
    ]
    table = _table(names, energy, tension)
    result = PartResult("Under strain", lines, [table], figures)
    result.images.append(f"strain-{job.model.sha256[:8]}.png")
    (job.kept.folder / result.images[0]).write_bytes(png(_draw(names, energy)))
    return result


def _table(names: list[str], energy: dict[str, Array], tension: dict[str, Array]) -> Table:
    """A row a monolayer."""
    columns = ["monolayer", "MAE (meV/atom)", "correlation", "minima", "minimum at (%)"]
    columns += ["roughness (meV/atom)", "strength (N/m)", "teacher's (N/m)", "softening"]
    rows: list[list[Cell]] = []
    for m, name in enumerate(names):
        mine, other = energy[MODEL][m], energy[TEACHER][m]
        pull, of_teacher = tension[MODEL][m, 0], tension[TEACHER][m, 0]
        rows.append(
            [
                name,
                float(np.abs(mine - other).mean()),
                float(np.corrcoef(mine.ravel(), other.ravel())[0, 1]),
                ", ".join(str(_minima(curve)) for curve in mine),
                ", ".join(f"{100 * STRAINS[curve.argmin()]:+.0f}" for curve in mine),
                float(_roughness(mine).max()),
                _strength(pull),
                _strength(of_teacher),
                float((pull @ of_teacher) / (of_teacher @ of_teacher)),
            ]
        )
    digits = {"MAE (meV/atom)": 1, "correlation": 4, "roughness (meV/atom)": 2, "softening": 2}
    note = (
        "Minima and their strain: biaxial, x, y. Roughness: largest distance of a point from the "
        "cubic through its four neighbours. Strength: largest tension under clamped biaxial "
        "strain, with the strain. Softening: slope of the model's on the teacher's tension."
    )
    return Table("strain", "", columns, rows, digits, note, right=columns[3:5] + columns[6:8])


def _structures(job: Job) -> tuple[list[str], list[Atoms]]:
    """Names, and what the teacher relaxes them to: known ones, and some that are held out."""
    options = job.options
    known = set(job.model.single.elements) & set(job.teacher.single.elements)
    names = [n for n in KNOWN if set(monolayer(n).numbers.tolist()) <= known][: options.n_strain]
    structures = [monolayer(name) for name in names]
    data = job.dataset(options.structures, job.model.single.cutoff, labels=False)
    if len(names) < options.n_strain:
        others = job.starts(data, options.n_strain - len(names), LARGEST).tolist()
        names += [data.material[s] for s in others]
        structures += [structure(data, s) for s in others]
    geometry = [[a.numbers.tolist(), a.positions.tolist(), a.cell.tolist()] for a in structures]

    def measure() -> list[Any]:
        found = relaxed(structures, job.teacher.single, 0.01, 0.02)
        return [
            None
            if isinstance(r, StructureError) or not r.met
            else [r.atoms.positions.tolist(), r.atoms.cell.tolist()]
            for r in found
        ]

    minima = job.kept.get("strain-start", [job.teacher.sha256, geometry], measure)
    kept = []
    for name, atoms, minimum in zip(names, structures, minima, strict=True):
        if minimum is None:
            continue
        rest = Atoms(atoms.numbers, positions=minimum[0], cell=minimum[1], pbc=(True, True, False))
        if np.abs(rest.cell.array[:2, 2]).max() < 1e-3:  # the plane is that of x and y
            kept.append((name, rest))
    if not kept:
        raise ValueError(f"{job.teacher.path.name} relaxes none of {', '.join(names)}")
    return [name for name, _ in kept], [atoms for _, atoms in kept]


def strained(atoms: Atoms, strain: float, direction: str) -> Atoms:
    """A slab whose normal is along z, strained in its plane with its atoms, z as it is."""
    both = direction == "biaxial"
    factor = [1 + strain * (both or direction == d) for d in ("x", "y")]
    found = atoms.copy()
    found.set_cell(atoms.cell.array * [*factor, 1.0], scale_atoms=True)
    return found


def _measure(structures: list[Atoms], potential: Potential) -> dict[str, Any]:
    """(M, D, P) energies in eV/atom and tensions in N/m along the strain."""
    evaluator = Evaluator(potential, edge_budget(potential))
    energy, tension = [], []
    for atoms in structures:
        cells = [strained(atoms, e, d) for d in DIRECTIONS for e in STRAINS]
        slabs = join([one_slab(a, k) for k, a in enumerate(cells)])
        found = evaluator(slabs.to(next(potential.parameters()).device))
        stress = batched_stress_2d(found.virial.cpu(), slabs.cell, slabs.pbc).numpy()
        sizes = (len(DIRECTIONS), len(STRAINS))
        xx, yy = stress[:, 0, 0].reshape(sizes), stress[:, 1, 1].reshape(sizes)
        energy.append((found.energy.cpu().numpy().reshape(sizes) / len(atoms)).tolist())
        tension.append([((xx[0] + yy[0]) / 2).tolist(), xx[1].tolist(), yy[2].tolist()])
    return {"energy": energy, "tension": tension}


def _above_rest(energy: Array) -> Array:
    """(M, D, P) meV/atom above the structure without strain."""
    rest = energy[..., [len(STRAINS) // 2]]
    above: Array = 1000 * (energy - rest)
    return above


def _minima(curve: Array) -> int:
    inner = curve[1:-1]
    return int(((inner < curve[:-2]) & (inner < curve[2:])).sum())


def _roughness(curves: Array) -> Array:
    """(..., P - 4) distance of each point from the cubic through its four neighbours."""
    a, b, c, d, e = (curves[..., k : curves.shape[-1] - 4 + k] for k in range(5))
    rough: Array = np.abs(c - (-a + 4 * b + 4 * d - e) / 6)
    return rough


def _strength(tension: Array) -> str:
    """The largest tension, and the strain where it is."""
    k = int(tension.argmax())
    more = "≥ " if k == len(tension) - 1 else ""
    return f"{more}{tension[k]:.1f} at {100 * STRAINS[k]:.0f} %"


@styled
def _draw(names: list[str], energy: dict[str, Array]) -> Any:
    """A panel a monolayer: its energy along the three strains, model beside teacher."""
    n_columns = min(5, len(names))
    n_rows = -(-len(names) // n_columns)
    figure, panels = new_figure(2.9 * n_columns, 2.6 * n_rows, n_rows, n_columns)
    for axes, name, m in zip(panels, names, range(len(names)), strict=False):
        for d, direction in enumerate(DIRECTIONS):
            axes.plot(100 * STRAINS, energy[TEACHER][m, d], color=COLOURS[d], alpha=0.35, lw=3)
            axes.plot(100 * STRAINS, energy[MODEL][m, d], color=COLOURS[d], label=direction)
        axes.set_title(name)
        axes.set(xlabel="strain (%)", ylabel="meV/atom")
    panels[0].legend()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    return figure
