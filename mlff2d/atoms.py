"""ASE Atoms to graphs and labels: every convention of ASE lives here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress
from ase.symbols import Symbols

from mlff2d import slab
from mlff2d.errors import StructureError, nearest
from mlff2d.graph import Graph, Labels
from mlff2d.neighbors import Edges, neighbor_list

MIN_DISTANCE = 0.4
"""Å. Two nuclei closer than this are one atom given twice; H2, the shortest bond, has 0.74 Å."""


def check(atoms: Atoms) -> None:
    """Raise StructureError where no potential can work on a structure: the sentence says why."""
    if len(atoms) == 0:
        raise StructureError("the structure has no atoms")
    if not np.isfinite(atoms.positions).all():
        bad = int(np.flatnonzero(~np.isfinite(atoms.positions).all(1))[0])
        raise StructureError(
            f"atom {bad} ({atoms.symbols[bad]}) has a position that is NaN or infinite; "
            "mend or remove the structure"
        )
    if not np.isfinite(atoms.cell.array).all():
        raise StructureError("the cell holds NaN or infinite numbers; mend or remove the structure")
    if atoms.numbers.min() < 1:
        bad = int(np.argmin(atoms.numbers))
        raise StructureError(f"atom {bad} is no element ({atoms.symbols[bad]}); name its element")
    try:
        slab.complete_cell(atoms.cell.array, atoms.pbc)
    except ValueError as error:
        raise StructureError(
            f"{error} (cell {np.round(atoms.cell.array, 4).tolist()}, pbc {atoms.pbc.tolist()}); "
            "set the cell, or pbc False along that axis"
        ) from error


def vacuum_axis(atoms: Atoms) -> int | None:
    """The lattice vector along the vacuum of a slab, None for anything else; see `slab`."""
    return slab.vacuum_axis(atoms.positions, atoms.cell.array, atoms.pbc)


def canonical_slab(atoms: Atoms) -> slab.Slab:
    """The slab in one piece, not periodic along its vacuum; see `slab.canonical`.

    Raises StructureError as `check` does.
    """
    check(atoms)
    return slab.canonical(atoms.positions, atoms.cell.array, atoms.pbc)


def to_graph(atoms: Atoms, cutoff: float, state: Sequence[str] = ()) -> Graph:
    """A graph of one structure in float64, a slab in canonical form.

    `state` names the entries of `atoms.info` that make the graph's state. Raises StructureError for
    anything `check` refuses, for atoms on top of each other and for a state that is not there.
    """
    canonical = canonical_slab(atoms)
    edges = neighbor_list(canonical.pos, atoms.cell.array, canonical.pbc, cutoff)
    return graph_from_edges(atoms, canonical, edges, state)


def graph_from_edges(
    atoms: Atoms, canonical: slab.Slab, edges: Edges, state: Sequence[str] = ()
) -> Graph:
    """A float64 graph from edges already found. Raises StructureError as `to_graph` does."""
    edge_index, edge_shift = edges
    graph = Graph(
        z=torch.from_numpy(atoms.numbers.astype(np.int64)),
        pos=torch.from_numpy(canonical.pos),
        cell=torch.from_numpy(np.array(atoms.cell.array))[None],
        pbc=torch.from_numpy(canonical.pbc)[None],
        edge_index=torch.from_numpy(edge_index),
        edge_shift=torch.from_numpy(edge_shift),
        batch=torch.zeros(len(atoms), dtype=torch.int64),
        state=torch.tensor([[info_number(atoms, key) for key in state]], dtype=torch.float64),
    )
    _refuse_overlap(atoms, graph)
    return graph


def info_number(atoms: Atoms, key: str) -> float:
    """A finite number of `atoms.info`. Raises StructureError where it is missing or none."""
    if key not in atoms.info:
        raise StructureError(
            f"info has no {key!r}, which the model needs.{nearest(key, map(str, atoms.info))}"
        )
    try:
        number = float(atoms.info[key])
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise StructureError(f"info[{key!r}] is {atoms.info[key]!r}, not a finite number")
    return number


def overlap(numbers: Sequence[int], i: int, j: int, distance: float) -> str:
    """What to say of atoms i and j that are closer than `MIN_DISTANCE`; j may be an image of i."""
    what = f"atoms {i} ({chemical_symbols[numbers[i]]}) and {j} ({chemical_symbols[numbers[j]]})"
    if i == j:
        what = f"atom {i} ({chemical_symbols[numbers[i]]}) and its periodic image"
    return (
        f"{what} are {distance:.3f} Å apart, closer than any bond; "
        "remove the duplicate or mend the cell"
    )


def not_finite(numbers: Sequence[int]) -> str:
    """What to say where a model gives no numbers for a structure."""
    formula = Symbols(np.asarray(numbers)).get_chemical_formula()
    return (
        f"the model returned NaN or infinity for {formula}; "
        "the geometry is far from anything it was trained on"
    )


def _refuse_overlap(atoms: Atoms, graph: Graph) -> None:
    if graph.n_edges == 0:
        return
    distances = graph.edge_vectors().norm(dim=1)
    shortest = int(distances.argmin())
    if distances[shortest] < MIN_DISTANCE:
        i, j = graph.edge_index[:, shortest].tolist()
        raise StructureError(overlap(atoms.numbers, i, j, float(distances[shortest])))


def to_labels(atoms: Atoms) -> Labels:
    """Energy, forces and virial that a structure carries, NaN where it carries none.

    Taken from the attached results (`atoms.calc`), where ASE's readers put them: energy in eV
    (the free energy, which belongs to the forces, where both are given), forces in eV/Å, stress
    in eV/Å³ of the cell as given, tension positive. The virial is stress times |det cell|.
    """
    n_atoms = len(atoms)
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    energy = results.get("free_energy", results.get("energy"))
    forces = np.asarray(results.get("forces", np.full((n_atoms, 3), np.nan)), dtype=float)
    virial = np.full((3, 3), np.nan)
    if results.get("stress") is not None:
        stress = np.asarray(results["stress"], dtype=float)
        full = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress
        volume = abs(np.linalg.det(atoms.cell.array))
        if volume > 0:
            virial = full.reshape(3, 3) * volume
    return Labels(
        energy=torch.tensor([np.nan if energy is None else float(energy)], dtype=torch.float64),
        forces=torch.from_numpy(forces.reshape(n_atoms, 3)),
        virial=torch.from_numpy(virial)[None],
    )


def in_plane_virial(atoms: Atoms) -> np.ndarray:
    """(3, 3) dE/dstrain in eV of an Atoms with any calculator, tension positive.

    Ours gives it as such, without needing a volume; of another, stress times |det cell|. Raises
    StructureError where neither is to be had.
    """
    calculator = atoms.calc
    if "virial" in getattr(calculator, "implemented_properties", []):
        return np.asarray(calculator.get_property("virial", atoms))
    volume = abs(np.linalg.det(atoms.cell.array))
    if volume < 1e-6:
        raise StructureError(
            "the cell has no volume, so this calculator has no stress; give the cell a third vector"
        )
    try:
        return atoms.get_stress(voigt=False) * volume
    except PropertyNotImplementedError as error:
        raise StructureError(
            f"the calculator {type(calculator).__name__} gives no stress"
        ) from error


def refuse_unknown(numbers: Iterable[int], known: Collection[int]) -> None:
    """Raise StructureError where a model never saw an element; `known` are those it has seen."""
    unknown = sorted({int(z) for z in numbers} - set(known))
    if unknown:
        which = symbols(tuple(known)) if len(known) <= 10 else f"{len(known)} other elements"
        raise StructureError(
            f"the model has never seen {symbols(unknown)}; it knows {which}; leave the "
            "structure out, or train a model that has seen it"
        )


def symbols(numbers: list[int] | tuple[int, ...]) -> str:
    """Chemical symbols of atomic numbers, joined by spaces."""
    return " ".join(chemical_symbols[z] for z in numbers)
