"""What a relaxation can do to a layer: each from a physical example, each with what is not it."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc100, fcc111, graphene, mx2
from ase.calculators.emt import EMT

from mlff2d.atoms import canonical_slab
from mlff2d.contacts import BONDED, BROKEN, Contacts
from mlff2d.md.relaxation.guards import Layer, recoordinated
from mlff2d.md.relaxation.outcome import MAX_ATOMS, Reached, judge
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.result import RelaxResult
from mlff2d.md.relaxation.settings import RelaxSettings
from tests.standins import rotated

FIXED = RelaxSettings(cell="fixed")


def sheet(atoms: Atoms, height: float = 25.0) -> Atoms:
    """A copy in the middle of its cell, pbc TTF."""
    atoms = atoms.copy()
    atoms.set_cell([*atoms.cell[:2], [0, 0, height]])
    atoms.center(axis=2)
    atoms.pbc = (True, True, False)
    return atoms


def bilayer(gap: float = 3.35) -> Atoms:
    layer = graphene(a=2.46, vacuum=0.5, size=(2, 2, 1))
    both = layer + layer
    both.positions[8:] += [0, 1.42, gap]
    return sheet(both)


def became(start: Atoms, end: Atoms, met: bool = True, trouble: str = "") -> RelaxResult:
    """The judgement of a relaxation that led from one structure to another."""
    moved = end.positions - start.positions
    n = len(start)
    reached = Reached(
        steps=7,
        pos=canonical_slab(start).pos + moved,
        cell=end.cell.array,
        energy=-1.0,
        forces=np.zeros((n, 3)),
        virial=np.zeros((3, 3)),
        fmax=0.0,
        smax=0.0,
        met=met,
        trouble=trouble,
    )
    return judge(start, reached)


def ends(result: RelaxResult, status: str, *words: str) -> None:
    assert result.status == status, result.reason
    assert all(word in result.reason for word in words), result.reason
    assert bool(result.reason) == (status != "converged")


def test_a_layer_that_stays_is_converged() -> None:
    for atoms in (mx2("MoS2"), graphene(), fcc111("Cu", (2, 2, 3)), bilayer()):
        atoms = sheet(atoms)
        result = became(atoms, atoms)
        ends(result, "converged")
        assert result.layer_group_before == result.layer_group_after > 1
    strained = sheet(mx2("MoS2"))
    strained.set_cell(strained.cell.array * [1.05, 1.05, 1], scale_atoms=True)
    ends(became(sheet(mx2("MoS2")), strained), "converged")


def test_a_fragment_that_leaves_is_detached() -> None:
    layer = sheet(graphene(size=(3, 3, 1)))
    start = layer + Atoms("CO", [[0, 0, 1.5], [0, 0, 2.65]] + layer.positions[0])
    for height, status in ((1.5, "detached"), (4.0, "detached"), (0.1, "converged")):
        end = start.copy()
        end.positions[-2:] += [0, 0, height]
        words = ["2 pieces", "1 before"] if status == "detached" else []
        ends(became(start, end), status, *words)
    hopped = start.copy()
    hopped.positions[-2:] += layer.positions[2] - layer.positions[0]
    ends(became(start, hopped), "rebuilt", "made", "broken")
    bonds = mx2("MoS2", size=(2, 2, 1))
    gone = sheet(bonds).copy()
    gone.positions[1] += [0, 0, 3.0]
    ends(became(sheet(bonds), gone), "detached", "2 pieces")


def test_a_bilayer_is_detached_only_when_it_drifts_apart() -> None:
    ends(became(bilayer(), bilayer(6.0)), "detached", "drifted")
    slid = bilayer()
    slid.positions[8:] += [0.5, 0.3, 0.2]
    ends(became(bilayer(), slid, met=False), "max-steps", "7 steps")
    assert became(bilayer(), slid).status in ("converged", "rebuilt"), "not detached"
    ends(became(bilayer(), bilayer(1.6)), "rebuilt", "bonds were made")


@pytest.mark.parametrize("seed", range(3))
def test_a_rattled_start_that_finds_its_symmetry_is_not_rebuilt(seed) -> None:
    """A start without symmetry has none to lose, and one that is loose within 0.1 Å keeps it."""
    atoms = fcc111("Cu", (2, 2, 2), a=3.6, vacuum=6.0)
    atoms.rattle(0.12, seed=seed)
    result = relax(rotated(atoms, seed), EMT(), RelaxSettings(fmax=0.005, smax=0.02))
    ends(result, "converged")
    assert (result.layer_group_before, result.layer_group_after) == (1, 72)
    start = sheet(mx2("MoS2"))
    loose = start.copy()
    loose.positions[1] += [0, 0, 0.11]  # 0.055 Å off the mirror
    result = became(loose, start)
    assert result.layer_group_before != result.layer_group_after
    ends(result, "converged")
    loose.positions[1] += [0, 0, 0.15]
    ends(became(loose, start), "rebuilt", "layer group", "69", "78")


def test_a_distorted_square_lattice_that_becomes_square_is_rebuilt() -> None:
    atoms = fcc100("Cu", (1, 1, 3), a=3.6, vacuum=6.0)
    distorted = atoms.copy()
    distorted.set_cell(atoms.cell.array * [1.05, 0.98, 1], scale_atoms=True)
    result = relax(distorted, EMT())
    assert (result.lattice_before, result.lattice_after) == ("rectangular", "square")
    ends(result, "rebuilt", f"from {result.layer_group_before}", f"to {result.layer_group_after}")
    ends(relax(atoms, EMT()), "converged")


def test_a_cell_that_doubles_is_rebuilt_though_its_group_has_the_same_number() -> None:
    square = sheet(Atoms("Po4", cell=[6.4, 6.4, 0]), 20.0)
    square.positions[:, :2] = [[1.6, 1.6], [4.8, 1.6], [1.6, 4.8], [4.8, 4.8]]
    doubled = square.copy()
    doubled.positions[:, :2] += 0.06 * (3.2 - square.positions[:, :2])
    result = became(square, doubled)
    assert result.layer_group_before == result.layer_group_after == 61
    ends(result, "rebuilt", "64 operations", "16 operations")


def test_precedence() -> None:
    """Of all that is true the gravest is said."""
    start = bilayer()
    ends(became(start, bilayer(6.0), met=False), "detached")
    ends(became(start, bilayer(6.0), trouble="a force grew"), "exploded", "after 7 steps a force")
    ends(became(start, bilayer(1.6), met=False), "max-steps")
    onto = start.copy()
    onto.positions[1] = onto.positions[0] + [0.3, 0, 0]
    result = became(start, onto)
    ends(result, "exploded", "0 (C) and 1 (C)", "0.30")
    assert (result.layer_group_after, result.lattice_after) == (0, "")
    assert result.met


def compressed(height: float) -> Atoms:
    """Five layers of copper at two thirds of their distance."""
    atoms = fcc100("Cu", (1, 1, 5), a=3.6)
    atoms.positions[:, 2] *= 0.68
    atoms.set_cell([*atoms.cell[:2], [0, 0, np.ptp(atoms.positions[:, 2]) + height]])
    atoms.center(axis=2)
    atoms.pbc = True
    return atoms


def test_a_slab_that_grows_into_its_image_is_merged() -> None:
    for atoms in (compressed(4.7), rotated(compressed(4.7), 2)):
        result = relax(atoms, EMT(), FIXED)
        ends(result, "merged", "across the vacuum", "more vacuum")
        assert result.met
        assert result.atoms.pbc.all()
    cut = compressed(4.7)
    cut.positions += [0, 0, 4.0]
    cut.wrap()
    ends(relax(cut, EMT(), FIXED), "merged")
    open_ended = compressed(4.7)
    open_ended.pbc = (True, True, False)
    ends(relax(open_ended, EMT(), FIXED), "merged")
    for height in (12.0, 30.0):
        assert relax(compressed(height), EMT(), FIXED).status == "converged"


@pytest.mark.parametrize("third", [[0, 0, 0], [0, 0, 1.0], [0, 0, 8.5], [30.0, 2.0, 3.0]])
def test_a_third_vector_without_vacuum_is_never_used(third) -> None:
    """pbc False along it: it says nothing about images, as one hopes who leaves it zero."""
    atoms = compressed(4.7)
    atoms.pbc = (True, True, False)
    atoms.cell[2] = third
    assert relax(atoms, EMT(), FIXED).status == "converged"


def test_bonds_are_followed_through_periodic_images() -> None:
    """Of one atom in its cell all bonds are to its own images; each counts once."""
    start = sheet(Atoms("Cu", cell=[[2.5, 0, 0], [0, 2.6, 0], [0, 0, 0]]))
    wider = start.copy()
    wider.set_cell([[2.5, 0, 0], [0, 4.2, 0], [0, 0, 25]])
    layers = [Layer(a, np.array([True, True, False])) for a in (start, wider)]
    assert recoordinated(*layers) == "a bond was broken (Cu 0 and Cu 0)"
    assert recoordinated(*layers[::-1]) == "a bond was made (Cu 0 and Cu 0)"
    assert recoordinated(layers[0], layers[0]) == ""


def test_between_bonded_and_broken_nothing_has_changed() -> None:
    pbc = np.array([True, True, False])
    radius = 1.32

    def pair(ratio: float) -> Layer:
        atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2 * radius * ratio]], cell=[9, 9, 25])
        return Layer(atoms, pbc)

    near, middle, far = pair(BONDED - 0.01), pair(BROKEN - 0.01), pair(BROKEN + 0.01)
    assert recoordinated(near, middle) == recoordinated(middle, near) == ""
    assert recoordinated(middle, far) == recoordinated(far, middle) == ""
    assert recoordinated(near, far) == "a bond was broken (Cu 0 and Cu 1)"
    assert recoordinated(far, near) == "a bond was made (Cu 0 and Cu 1)"


def test_pieces_are_counted_across_the_boundary() -> None:
    ribbons = sheet(Atoms("C3", [[0.1, 0, 0], [0.1, 5, 0], [2.4, 0, 0]], cell=[3.7, 10, 0]))
    contacts = Contacts(ribbons, np.array([True, True, False]))
    assert contacts.n_pieces(BONDED) == 2


def test_of_very_many_atoms_no_group_is_sought() -> None:
    n = int(np.sqrt(MAX_ATOMS / 2)) + 1
    atoms = sheet(graphene(size=(n, n, 1)))
    result = became(atoms, atoms)
    assert (result.layer_group_before, result.layer_group_after) == (0, 0)
    ends(result, "converged")
