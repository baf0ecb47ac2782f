"""The layer group of a frame that is read."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, mx2
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d.training.data.readers import Keys
from mlff2d.training.data.record import to_record
from tests.training_helpers import monolayers


def slab_in_space(name: str, seed: int, noise: float) -> Atoms:
    """A monolayer turned in space, with another axis as its vacuum and anything as its vector."""
    atoms = mx2("MoS2", kind={"1H": "2H", "1T": "1T"}[name], vacuum=8.0)
    rng = np.random.default_rng(seed)
    atoms.rattle(noise, seed=seed)
    atoms.rotate(rng.uniform(0, 180), rng.normal(size=3), rotate_cell=True)
    order = [[0, 1, 2], [2, 0, 1], [1, 2, 0]][seed % 3]
    atoms.set_cell(atoms.cell.array[order], scale_atoms=False)
    atoms.pbc = np.array([True, True, False])[order]
    return atoms


@pytest.mark.parametrize(("name", "number"), [("1H", 78), ("1T", 72)])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_layer_groups_in_any_orientation(name, number, seed, noise):
    record = to_record(0, slab_in_space(name, seed, noise), Keys(labels=False))
    assert record.layer_group == number


def test_a_skewed_cell_of_the_same_layer_has_the_same_group():
    atoms = slab_in_space("1H", 0, 0.0)
    atoms.cell[1] += 137 * atoms.cell[0]
    assert to_record(0, atoms, Keys(labels=False)).layer_group == 78


def test_a_cell_without_room_for_a_layer_has_none_and_takes_no_time():
    atoms = Atoms("H", cell=[[0.64, 0, 0], [-0.12, 15.5, 0], [0, 0, 20]], pbc=[1, 1, 0])
    assert to_record(0, atoms, Keys(labels=False)).layer_group == 0


def test_what_has_no_layer_group_has_zero():
    for atoms in (bulk("Cu"), Atoms("Cu"), Atoms("Cu", cell=[0, 0, 3], pbc=[0, 0, 1])):
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
        assert to_record(0, atoms, Keys()).layer_group == 0


def test_a_layer_group_that_is_not_found_is_no_error(monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("too small a tolerance")

    monkeypatch.setattr("mlff2d.symmetry.moyopy.MoyoLayerDataset", fail)
    assert to_record(0, monolayers(1)[0], Keys()).layer_group == 0
