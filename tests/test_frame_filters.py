"""Filters of frames: each rule against the numbers it is about, with a count and an example."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d.training.data.convert import convert
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.filters import apply_filters, missing
from mlff2d.training.data.record import Keys
from mlff2d.training.sections import FilterConfig
from tests.training_helpers import monolayers, partly_labelled

FRAMES = monolayers(1)
PLAIN = {"isolated_atoms": "keep", "duplicates": "keep"}
KBAR = 1602.1766208  # in eV/Å³
HEIGHT = 20.0


def stored(folder: Path, frames: list[Atoms], cutoff: float = 4.0) -> Dataset:
    ase.io.write(folder / "frames.traj", frames)
    convert([folder / "frames.traj"], folder / "frames.h5", Keys())
    return Dataset(folder / "frames.h5", cutoff)


def labelled(shift: float = 0.0, apart: float = 1.5, **labels: object) -> Atoms:
    """Two atoms in a square cell of 9 Å² and 20 Å."""
    atoms = Atoms("MoS", [(0, 0, 9), (apart, 1.5, 11)], cell=[3, 3, HEIGHT], pbc=(1, 1, 0))
    atoms.positions += shift
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    return stored(tmp_path_factory.mktemp("frames"), partly_labelled())


def test_rules_count_what_they_remove_one_after_another(data):
    ids, removed = apply_filters(data, FilterConfig())
    assert len(ids) == 36
    assert [r.count for r in removed] == [0, 0]
    force = np.array([np.abs(atoms.get_forces()).max() for atoms in FRAMES])
    # In the plane; the Voigt components are xx, yy, zz, yz, xz, xy.
    stress = np.array([np.abs(a.get_stress()[[0, 1, 5]]).max() * a.cell[2, 2] for a in FRAMES])
    stress *= 16.021766208
    force[[3, 5]] = stress[[4, 5]] = np.nan
    per_atom = np.array([atoms.get_potential_energy() / 2 for atoms in FRAMES])
    high = float(np.median(per_atom))
    config = FilterConfig(
        require=("forces",), max_energy=high, max_force=1.0, max_stress=4.0, max_atoms=2
    )
    ids, removed = apply_filters(data, config)
    left = ~np.isnan(force)
    expected, examples = [2, 0, 0], ["frames.traj frame 3"]
    for bad, values in ((per_atom > high, per_atom), (force > 1, force), (stress > 4, stress)):
        expected.append(int((left & bad).sum()))
        first = int((left & bad).argmax())
        material = FRAMES[first].info["material"]
        examples.append(f"frames.traj frame {first} ({material}): {values[first]:.4g} ")
        left &= ~bad
    assert [r.count for r in removed] == [*expected, 0]
    assert min(expected[3:]) > 0, "each rule should have something to remove"
    assert ids.tolist() == np.flatnonzero(left).tolist()
    shown = [r.example for r in removed if r.count]
    assert all(a.startswith(b) for a, b in zip(shown, examples, strict=True))


@pytest.mark.parametrize(
    ("rule", "labels", "others"),
    [
        ({"min_energy": -20}, {"energy": -40.2}, {"energy": -39.9}),
        ({"max_energy": 0}, {"energy": 0.1}, {"energy": -0.1}),
        ({"max_force": 20}, {"forces": [[0, 0, -20.1], [0, 0, 0]]}, {"forces": [[12, 12, 12]] * 2}),
        (
            {"max_stress": 30},
            {"stress": [0, -31 / 16.021766 / HEIGHT, 0, 0, 0, 0]},
            {"stress": [0, 29 / 16.021766 / HEIGHT, 9, 9, 9, 0]},
        ),
        (
            {"max_stress_kbar": 500},
            {"stress": [0, 0, 0, 0, 0, 501 / KBAR]},
            {"stress": [499 / KBAR, 0, 9, 9, 9, 0]},
        ),
    ],
)
def test_each_rule_at_its_limit(rule, labels, others, tmp_path):
    """What is out of the plane of a slab breaks no rule, nor does an absent label."""
    lone = {"energy": -1.0} if "energy" not in labels else {"forces": np.zeros((2, 3))}
    data = stored(tmp_path, [labelled(**labels), labelled(**others), labelled(**lone)])
    ids, (removed,) = apply_filters(data, FilterConfig(**PLAIN, **rule))
    assert ids.tolist() == [1, 2]
    assert removed.count == 1
    assert removed.example.startswith("frames.traj frame 0 (MoS): ")
    label = next(iter(labels))
    ids, (removed, _) = apply_filters(data, FilterConfig(**PLAIN, **rule, require=(label,)))
    assert ids.tolist() == [1]
    assert missing(data, label).tolist() == [False, False, True]


def test_size_and_isolated_atoms(tmp_path):
    lone = FRAMES[0].copy()
    lone.positions[1, 2] += 6.0
    frames = [lone, FRAMES[1].copy(), FRAMES[2].copy() * (2, 1, 1)]
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    data = stored(tmp_path, frames, cutoff=3.0)  # shorter than a lattice vector
    ids, removed = apply_filters(data, FilterConfig(max_atoms=3))
    assert ids.tolist() == [1]
    assert [r.count for r in removed] == [1, 1, 0]
    assert removed[0].example.endswith(": 4 atoms")
    kept, _ = apply_filters(data, FilterConfig(isolated_atoms="keep"))
    assert kept.tolist() == [0, 1, 2]


def test_of_duplicates_the_first_that_passes_stays(tmp_path):
    moved, far = labelled(0.7, energy=-2.0), labelled(apart=1.499, energy=-2.0)
    data = stored(tmp_path, [labelled(energy=-2.0), moved, far, labelled(energy=-2.0)])
    assert len(data) == 4
    ids, removed = apply_filters(data, FilterConfig(isolated_atoms="keep"))
    assert ids.tolist() == [0, 2]
    assert removed[-1].count == 2
    assert removed[-1].example == "frames.traj frame 1 (MoS)"
    assert removed[-1].rule == "the same structure as an earlier frame"
    broken = stored(tmp_path, [labelled(energy=0.2), labelled(energy=-2.0), moved])
    config = FilterConfig(isolated_atoms="keep", max_energy=0.0)
    assert apply_filters(broken, config)[0].tolist() == [1]
    assert apply_filters(broken, FilterConfig(**PLAIN))[0].tolist() == [0, 1, 2]
    # Of the same structure with two energies one is wrong, or another level of theory.
    _, (*_, removed) = apply_filters(broken, FilterConfig(isolated_atoms="keep"))
    assert removed.count == 2
    assert "2 with an energy that differs by more than 0.001 eV/atom" in removed.rule


def test_frames_may_be_chosen_from_some(data):
    some = np.array([1, 3, 4, 7])
    ids, removed = apply_filters(data, FilterConfig(require=("forces",)), some)
    assert ids.tolist() == [1, 4, 7]
    assert removed[0].count == 1
