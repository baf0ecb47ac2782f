"""Layer groups: found, made exact, and kept, in any orientation and any supercell."""

from functools import cache

import moyopy
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc100, fcc111, mx2
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.errors import StructureError
from mlff2d.md.lattice import SYMPREC, lattice_of_group
from mlff2d.md.relaxation import cell as strain
from mlff2d.md.relaxation import symmetry
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.md.relaxation.symmetry import symmetrized
from mlff2d.md.slabs import Slabs, join, one_slab
from mlff2d.symmetry import LayerSymmetry, layer_symmetry, reduced
from tests.standins import rotated

LATTICES = {
    "oblique": [[7.1, 0, 0], [1.7, 8.3, 0]],
    "rectangular": [[7.1, 0, 0], [0, 8.6, 0]],
    "centred rectangular": [[7.1, 0, 0], [0, 10.6, 0]],
    "square": [[8.3, 0, 0], [0, 8.3, 0]],
    "hexagonal": [[8.9, 0, 0], [-4.45, 8.9 * 0.75**0.5, 0]],
}
N_FREE = {"oblique": 3, "rectangular": 2, "centred rectangular": 2, "square": 1, "hexagonal": 1}


@cache
def crystal(number: int) -> Atoms:
    """Atoms in general positions and one at the origin, with all their images, pbc TTF."""
    operations = moyopy.operations_from_layer_number(number)
    turns = np.array(operations.rotations)
    shifts = np.array(operations.translations)
    cell = np.array([*LATTICES[lattice_of_group(number)], [0, 0, 20.0]])
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        atoms = Atoms(cell=cell, pbc=[True, True, False])
        for species in ("Mo", "S", "W"):
            one = rng.uniform(0, 1, 3) * [1, 1, 0.2] * (species != "W")
            images = turns @ one + shifts
            images[:, :2] %= 1
            images[:, 2] += 0.5
            images = np.unique(images.round(9), axis=0)
            atoms += Atoms(f"{species}{len(images)}", images @ cell)
        distances = atoms.get_all_distances(mic=True)
        if distances[np.triu_indices(len(atoms), 1)].min() > 0.6:
            return atoms
    raise AssertionError(f"no room for the images of group {number}")


def disturbed(atoms: Atoms, seed: int, size: float, grow: float, repeats: tuple[int, int]) -> Slabs:
    """A supercell in any orientation, with noise on positions and cell."""
    rng = np.random.default_rng(seed)
    atoms = atoms * (*repeats, 1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + grow * rng.uniform(-1, 1, (3, 3))), True)
    atoms.positions += rng.uniform(-size, size, (len(atoms), 3))
    atoms.positions -= atoms.cell[0] * rng.integers(-1, 2, len(atoms))[:, None]
    atoms.set_cell([atoms.cell[0], atoms.cell[1] + rng.integers(-1, 2) * atoms.cell[0], [0, 0, 0]])
    atoms = rotated(atoms, seed)
    axis = int(rng.integers(0, 3))
    atoms.set_cell(np.roll(atoms.cell.array, axis, axis=0))
    atoms.pbc = np.roll(atoms.pbc, axis)
    return one_slab(atoms, 0)


def found_at(slabs: Slabs, symprec: float) -> LayerSymmetry | None:
    pos, cell, pbc = (x.numpy() for x in (slabs.pos, slabs.cell[0], slabs.pbc[0]))
    return layer_symmetry(slabs.z.numpy(), pos, cell, pbc, symprec)


@pytest.mark.parametrize("number", range(1, 81))
def test_every_layer_group_is_made_exact(number) -> None:
    repeats = [(1, 1), (2, 1), (2, 2), (1, 3)][number % 4]
    slabs = disturbed(crystal(number), number, size=0.003, grow=0.0005, repeats=repeats)
    made = symmetrized(slabs)
    assert made.number == number
    assert 0 < made.moved < 0.05
    before, after = found_at(slabs, SYMPREC), found_at(made.slabs, 1e-6)
    assert after is not None
    assert before is not None
    assert (after.number, len(after)) == (number, len(before)), "exact, where it was rough"
    assert torch.allclose(made.slabs.cell[made.slabs.pbc], slabs.cell[slabs.pbc], atol=0.1)
    again = symmetrized(made.slabs)
    assert torch.allclose(again.slabs.pos, made.slabs.pos, atol=1e-10)
    assert (
        int((made.basis("full")[0].norm(dim=(1, 2)) > 0.5).sum())
        == N_FREE[lattice_of_group(number)]
    )


@settings(max_examples=200, deadline=None)
@given(
    angle=st.floats(0, 7),
    length=st.floats(1, 30),
    i=st.integers(-3, 3),
    j=st.integers(-3, 3),
    lattice=st.sampled_from(sorted(LATTICES)),
)
def test_reduction_ends_on_a_tie(angle, length, i, j, lattice) -> None:
    """In a hexagonal lattice three pairs of vectors are the shortest, but for rounding errors."""
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0]])
    rows = np.array(LATTICES[lattice])[:, :2] @ turn * length
    mixed = np.array([[1, j], [i, 1 + i * j]]) @ rows
    found = np.array(reduced(*mixed))
    assert np.linalg.norm(np.cross(*found)) == pytest.approx(np.linalg.norm(np.cross(*rows)))
    lengths = np.linalg.norm(found, axis=1)
    assert lengths[0] <= lengths[1] * (1 + 1e-9)
    assert lengths[1] <= np.linalg.norm(rows, axis=1).max() * (1 + 1e-9)


def mean_over_operations(slabs: Slabs, forces: np.ndarray) -> np.ndarray:
    """The mean over every operation in the cell, one after another, as the definition has it."""
    found = found_at(slabs, 1e-5)
    assert found is not None
    frame = np.vstack([found.lattice, found.normal])
    place = slabs.pos.numpy() @ np.linalg.inv(frame)
    mean = np.zeros_like(forces)
    for plane, flip, shift in zip(found.plane, found.flip, found.shift, strict=True):
        linear = np.zeros((3, 3))
        linear[:2, :2], linear[2, 2] = plane, flip
        apart = (place @ linear + shift)[:, None] - place
        apart[..., :2] -= np.round(apart[..., :2])
        onto = np.linalg.norm(apart @ frame, axis=2).argmin(1)
        assert sorted(onto) == list(range(len(onto)))
        mean[onto] += forces @ (np.linalg.inv(frame) @ linear @ frame)
    return mean / len(found)


@settings(max_examples=40, deadline=None)
@given(number=st.integers(1, 80), seed=st.integers(0, 1000), size=st.sampled_from([0.0, 0.003]))
def test_projected_forces_are_the_mean_over_the_operations(number, seed, size) -> None:
    """In cells whose lattice every operation of the group maps onto itself: its primitive one,
    and the doubled one."""
    made = symmetrized(disturbed(crystal(number), seed, size, 0.0, (1 + seed % 2,) * 2))
    forces = torch.tensor(np.random.default_rng(seed).normal(size=made.slabs.pos.shape))
    found = made.orbits.project(forces, made.slabs)
    assert np.allclose(found, mean_over_operations(made.slabs, forces.numpy()), atol=1e-6)
    assert torch.allclose(made.orbits.project(found, made.slabs), found, atol=1e-12)


def test_a_rotation_that_the_supercell_does_not_have_is_kept_too() -> None:
    """2x1 of MoS2 is a rectangle to its lattice, and three-fold to its atoms."""
    atoms = mx2("MoS2", vacuum=6.0) * (2, 1, 1)
    atoms.pbc = (True, True, False)
    made = symmetrized(one_slab(atoms, 0))
    assert (made.number, len(made.rotations)) == (78, 12)
    forces = torch.randn(6, 3, dtype=torch.float64)
    found = made.orbits.project(forces, made.slabs)
    assert found[:, :2].abs().max() < 1e-12
    assert found[[0, 3]].abs().max() < 1e-12
    pull = (forces[[1, 4], 2] - forces[[2, 5], 2]).sum() / 4
    expected = torch.tensor([0, pull, -pull, 0, pull, -pull], dtype=torch.float64)
    assert torch.allclose(found[:, 2], expected * torch.sign(expected[1] * found[1, 2]))


def test_a_batch_is_its_structures() -> None:
    made = [symmetrized(disturbed(crystal(n), n, 0.003, 0, (1, 1))) for n in (78, 1, 61, 40)]
    slabs = join([m.slabs for m in made])
    forces = torch.randn(len(slabs.z), 3, dtype=torch.float64)
    orbits = symmetry.join([m.orbits for m in made])
    alone = [
        m.orbits.project(part, m.slabs)
        for m, part in zip(made, forces.split(slabs.n_atoms.tolist()), strict=True)
    ]
    assert torch.allclose(orbits.project(forces, slabs), torch.cat(alone), atol=1e-14)
    kept = torch.tensor([True, False, True, False])
    rows = kept[slabs.batch]
    found = orbits.select(rows).project(forces[rows], slabs.select(kept))
    assert torch.allclose(found, torch.cat([alone[0], alone[2]]), atol=1e-14)


def test_held_atoms_are_equivalent_to_held_ones_only() -> None:
    atoms = mx2("MoS2", vacuum=6.0) * (2, 2, 1)
    atoms.pbc = (True, True, False)
    atoms.set_constraint(FixAtoms([0]))
    made = symmetrized(one_slab(atoms, 0))
    assert made.number == 78, "about the held atom"
    forces = torch.zeros(12, 3, dtype=torch.float64)
    forces[3] = torch.tensor([0.3, 0.2, 0.1])
    assert made.orbits.project(forces, made.slabs)[0].abs().max() < 1e-12
    atoms.set_constraint(FixAtoms([1]))
    assert symmetrized(one_slab(atoms, 0)).number == 69, "the mirror is gone"


def test_without_a_group_nothing_moves() -> None:
    atoms = mx2("MoS2", vacuum=6.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.3, seed=0)
    slabs = one_slab(atoms, 0)
    made = symmetrized(slabs)
    assert made.moved < 1e-12
    assert torch.allclose(made.slabs.pos, slabs.pos, atol=1e-12)
    forces = torch.randn(3, 3, dtype=torch.float64)
    assert torch.allclose(made.orbits.project(forces, slabs), forces, atol=1e-14)
    axes = strain.plane_axes(slabs.cell, slabs.pbc)
    for mode in ("full", "a", "area"):
        assert torch.equal(made.basis(mode), strain.basis(slabs.cell, slabs.pbc, axes, mode))


def test_a_kept_vector_and_a_symmetry_that_turns_it_contradict_each_other() -> None:
    """The rhombic cell of a centred lattice: its angle can only change if both vectors turn."""
    atoms = crystal(26)
    assert lattice_of_group(26) == "centred rectangular"
    along = symmetrized(one_slab(atoms, 0))
    assert int((along.basis("a")[0].norm(dim=(1, 2)) > 0.5).sum()) == 1
    a, b = atoms.cell.array[:2]
    atoms = atoms.copy()
    atoms.set_cell([(a + b) / 2, (a - b) / 2, [0, 0, 20.0]])
    atoms = atoms[symmetrized_half(atoms)]
    made = symmetrized(one_slab(atoms, 0))
    assert made.number == 26
    with pytest.raises(StructureError, match="layer group 26"):
        made.basis("a")
    assert not symmetrized(one_slab(crystal(78), 0)).basis("a").any(), "fixed by the symmetry"


def symmetrized_half(atoms: Atoms) -> list[int]:
    """One atom of each that lie on each other in a cell of half the size."""
    place = atoms.cell.scaled_positions(atoms.positions)[:, :2]
    apart = place[:, None] - place
    same = (np.abs(apart - np.round(apart)) < 1e-6).all(2)
    same &= np.abs(atoms.positions[:, None, 2] - atoms.positions[:, 2]) < 1e-6
    return [i for i in range(len(atoms)) if not same[i, :i].any()]


class Noisy(EMT):
    """Forces and stress with the noise of a lower precision, other noise at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def calculate(self, *args, **kwargs) -> None:
        super().calculate(*args, **kwargs)
        for name, size in {"forces": 1e-3, "stress": 1e-5}.items():
            noise = self.rng.normal(size=np.shape(self.results[name]))
            self.results[name] = self.results[name] + size * noise


def strained_copper() -> dict[str, Atoms]:
    """Slabs that are not quite symmetric, by noise and by a strain of the cell that turns axes."""
    found = {
        "hexagonal": fcc111("Cu", (1, 1, 2), a=3.8, vacuum=6.0),
        "supercell": fcc111("Cu", (2, 1, 2), a=3.8, vacuum=6.0),
        "rectangular": fcc100("Cu", (2, 1, 2), a=3.8, vacuum=6.0),
        "square": fcc100("Cu", (1, 1, 2), a=3.7, vacuum=6.0),
    }
    found["rectangular"].numbers[[0, 2]] = 47
    for atoms in found.values():
        strain = [[1.004, 0.003, 0], [0.001, 1, 0], [0, 0, 1]]
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.rattle(0.003, seed=2)
    return found


@pytest.mark.parametrize("name", strained_copper())
def test_the_group_is_kept_through_a_relaxation_whatever_the_noise(name) -> None:
    atoms = rotated(strained_copper()[name], 1)
    rough = found_at(one_slab(atoms, 0), SYMPREC)
    assert rough is not None
    for keep in (True, False):
        result = relax(atoms, Noisy(), RelaxSettings(symmetry=keep))
        assert result.status == "converged"
        assert result.steps > 5
        fine = found_at(one_slab(result.atoms, 0), 1e-6)
        if keep:
            assert fine is not None
            assert (fine.number, len(fine)) == (rough.number, len(rough))
            assert 0 < result.symmetrized < 0.01
        else:
            assert fine is None or fine.number < rough.number, "so keeping it is no accident"
            assert result.symmetrized == 0
