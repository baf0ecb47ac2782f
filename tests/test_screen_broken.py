"""A file of broken structures among good ones: each its row and its sentence, with any relaxer."""

import csv
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, mx2
from ase.constraints import FixCartesian

from mlff2d import cli

OPTIONS = ("--steps", "40")
FAILED = ("failed",)
GOOD = ("converged",)
ANY = ("converged", "rebuilt", "max-steps", "merged", "detached", "exploded")


def layer() -> Atoms:
    """Graphene, pbc TTF."""
    return graphene(a=2.47, vacuum=6.0)


def with_pbc(atoms: Atoms, *pbc: bool) -> Atoms:
    atoms.pbc = pbc
    return atoms


def with_cell(vectors, atoms: Atoms | None = None) -> Atoms:
    atoms = atoms or layer()
    atoms.set_cell(vectors)
    return atoms


def with_symbols(symbols: str) -> Atoms:
    return Atoms(symbols, layer().positions, cell=layer().cell, pbc=(True, True, False))


def with_vector(axis: int, vector: tuple[float, ...] = (0, 0, 0)) -> Atoms:
    cell = layer().cell.array
    cell[axis] = vector
    return with_cell(cell)


def stretched(factor: float) -> Atoms:
    """In the plane, the atoms staying where they are."""
    return with_cell(layer().cell.array * [[factor], [factor], [1]])


def ribbon() -> Atoms:
    """Periodic along all axes, with vacuum along two."""
    return with_pbc(
        with_cell([2.47, 20, 20], Atoms("C2", [[0, 10, 10], [1.2, 10, 10.7]])), True, True, True
    )


def with_value(value: float, where: str) -> Atoms:
    atoms = layer()
    getattr(atoms, where)[0, 0] = value
    return atoms


def along_x() -> Atoms:
    """Periodic along all axes, its vacuum along x."""
    atoms = layer()
    turned = Atoms(atoms.symbols, atoms.positions[:, [2, 0, 1]], pbc=True)
    turned.set_cell(atoms.cell.array[[2, 0, 1]][:, [2, 0, 1]])
    return turned


def two_layers(gap: float) -> Atoms:
    lower, upper = layer(), layer()
    upper.positions[:, 2] += gap
    both = lower + upper
    both.cell[2, 2] += gap
    return both


def with_constraint() -> Atoms:
    atoms = layer()
    atoms.set_constraint(FixCartesian(0, mask=(True, False, False)))
    return atoms


def across_boundary() -> Atoms:
    atoms = mx2("MoS2", vacuum=6.0)
    atoms.pbc = (True, True, False)
    atoms.positions[:, 2] -= atoms.positions[0, 2]
    atoms.wrap(pbc=True)
    return atoms


def doubled() -> Atoms:
    """An atom given again where its image is."""
    atoms = layer()
    return atoms + Atoms("C", [atoms.positions[0] + atoms.cell[0]])


def collinear() -> Atoms:
    cell = layer().cell.array
    return with_cell([cell[0], 2 * cell[0], cell[2]])


def left_handed() -> Atoms:
    return with_cell(layer().cell.array[[1, 0, 2]])


def with_vacuum(width: float) -> Atoms:
    """Periodic along all axes."""
    atoms = fcc111("Cu", (1, 1, 4), a=3.6, vacuum=width / 2)
    return with_pbc(atoms, True, True, True)


LATTICE = 'Lattice="2.47 0 0 -1.235 2.139 0 0 0 12" Properties=species:S:1:pos:R:3 pbc="T T F"'

# What it is, the structure or the text of its frame, the statuses it may have, a word of the reason
CASES: list[tuple[str, Atoms | str, tuple[str, ...], str]] = [
    ("good", layer(), GOOD, ""),
    ("empty", f"0\n{LATTICE}\n", FAILED, "no atoms"),
    ("one atom far from its images", with_cell([20, 20, 12], Atoms("C", pbc=[1, 1, 0])), ANY, ""),
    ("one atom", fcc111("Cu", (1, 1, 1), a=3.6, vacuum=6.0), ANY, ""),
    ("atoms on top of each other", layer() + layer()[:1], FAILED, "apart"),
    ("atom again through the boundary", doubled(), FAILED, "apart"),
    ("NaN in a position", with_value(np.nan, "positions"), FAILED, "NaN"),
    ("infinite position", with_value(np.inf, "positions"), FAILED, "NaN"),
    ("NaN in the cell", with_value(np.nan, "cell"), FAILED, "NaN"),
    ("unknown element X", with_symbols("XC"), FAILED, "X"),
    ("no element at all", f"1\n{LATTICE}\nXq 0 0 0\n", FAILED, "Xq"),
    ("element that the model has not met", with_symbols("OgC"), FAILED, "Og"),
    ("a lattice vector of length zero", with_vector(0), FAILED, "zero"),
    ("collinear lattice vectors", collinear(), FAILED, "dependent"),
    ("three-dimensional crystal", bulk("Cu"), FAILED, "vacuum"),
    ("molecule", with_pbc(layer(), False, False, False), FAILED, "molecule"),
    ("chain", with_pbc(layer(), True, False, False), FAILED, "chain"),
    ("vacuum along x", along_x(), GOOD, ""),
    ("vacuum along two axes", ribbon(), FAILED, "more than one"),
    ("vacuum too thin to be one", with_vacuum(2.5), FAILED, "vacuum"),
    ("left-handed cell", left_handed(), GOOD, ""),
    ("no cell", f"2\n{LATTICE[41:]}\nC 0 0 0\nC 0 1.4 0\n", FAILED, "zero"),
    ("no third vector", with_vector(2), GOOD, ""),
    ("tilted third vector", with_vector(2, (5, 4, 12)), GOOD, ""),
    ("across the boundary", across_boundary(), GOOD, ""),
    ("half-written frame", f"2\n{LATTICE}\nC 0 0 6\nC 0 1.4", FAILED, "cannot be read"),
    ("lines missing", f"3\n{LATTICE}\nC 0 0 6\nC 0 1.4 6\n", FAILED, "cannot be read"),
    ("lines too many", f"1\n{LATTICE}\nC 0 0 6\nC 0 1.4 6\n", FAILED, "more lines"),
    ("letters for numbers", f"1\n{LATTICE}\nC a b c\n", FAILED, "cannot be read"),
    ("two numbers for a lattice", f'1\n{LATTICE[:15]}"\nC 0 0 0\n', FAILED, "cannot be read"),
    ("cell a thousand times too large", stretched(1000), ANY, ""),
    ("position of 1e200", with_value(1e200, "positions"), (*FAILED, *ANY), ""),
    ("two layers far apart", two_layers(20.0), ANY, ""),
    ("very thick", fcc111("Cu", (1, 1, 12), a=3.6, vacuum=6.0), ANY, ""),
    ("constraint that cannot be kept", with_constraint(), FAILED, "FixCartesian"),
    ("atoms half an angstrom apart", stretched(0.5), ANY, ""),
    ("good again", layer(), GOOD, ""),
]  # fmt: skip


def write_cases(path: Path) -> None:
    for what, frame, _, _ in CASES:
        if isinstance(frame, Atoms):
            frame.info = {"what": what}
            ase.io.write(path, frame, append=True)
        else:
            with path.open("a") as file:
                file.write(frame if frame.endswith("\n") else frame + "\n")


@pytest.fixture(scope="module", params=["batch", "ase"])
def screened(request, tmp_path_factory) -> tuple[Path, list[dict[str, str]]]:
    """The folder of a screen of all cases by the shipped model, and the rows of its table."""
    folder = tmp_path_factory.mktemp("broken")
    write_cases(folder / "in.extxyz")
    arguments = [str(folder / "in.extxyz"), "-o", str(folder / "out.extxyz"), *OPTIONS]
    assert cli.relax_main([*arguments, "--relaxer", request.param]) == 0
    with (folder / "out.csv").open(newline="") as file:
        return folder, list(csv.DictReader(file))


def test_every_structure_has_its_row_and_its_sentence(screened) -> None:
    folder, rows = screened
    assert len(CASES) >= 30
    assert len(rows) == len(CASES)
    faults = []
    for k, (row, (what, _, statuses, word)) in enumerate(zip(rows, CASES, strict=True)):
        named = f"{folder / 'in.extxyz'}, frame {k}"
        is_right = (
            (row["index"], row["frame"]) == (str(k), str(k))
            and row["status"] in statuses
            and word in row["reason"]
            and (row["status"] == "converged") == (not row["reason"])
            and (row["status"] != "failed" or row["reason"].startswith(named))
            and (row["status"] == "failed") == (not row["energy_per_atom"])
        )
        if not is_right:
            faults.append((what, row["status"], row["reason"]))
    assert not faults


def test_all_but_those_that_failed_are_written(screened) -> None:
    folder, rows = screened
    frames = ase.io.read(folder / "out.extxyz", ":")
    kept = [k for k, row in enumerate(rows) if row["status"] != "failed"]
    assert [atoms.info["relax_index"] for atoms in frames] == kept
    for atoms in frames:
        assert np.isfinite(atoms.positions).all()
        assert np.isfinite(atoms.get_potential_energy())
        before = CASES[atoms.info["relax_index"]][1]
        assert atoms.pbc.tolist() == before.pbc.tolist()


def test_the_good_ones_do_not_suffer(screened) -> None:
    _, rows = screened
    energies = {
        what: float(row["energy_per_atom"])
        for row, (what, _, statuses, _) in zip(rows, CASES, strict=True)
        if statuses == GOOD and what != "across the boundary"
    }
    assert len(energies) >= 6
    assert max(energies.values()) - min(energies.values()) < 2e-4, energies
