"""Frames about structures: rattled, strained, scaled, or moved by a model."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import mx2

from mlff2d.errors import StructureError
from mlff2d.md.dynamics.collect import move_many
from mlff2d.training.generation.hot import heated
from mlff2d.training.generation.layers import standard
from mlff2d.training.generation.perturb import perturbed
from tests.standins import morse

NOTHING = (0.0, 0.0)


def layer(a: float = 3.18, **info: object) -> Atoms:
    atoms = mx2("MoS2", a=a, thickness=3.12, vacuum=8)
    atoms.pbc = (True, True, False)
    atoms.info = {"material": "MoS2", "phase": "1H", "nfu": 1, **info}
    return standard(atoms)


def equal(one: Atoms, other: Atoms) -> bool:
    return np.array_equal(one.positions, other.positions) and np.array_equal(one.cell, other.cell)


def test_displacements_are_normal_with_the_deviation_asked_for() -> None:
    start = layer()
    (frame,) = perturbed(start, [(0.1, 0.1)], supercell=(30, 30))
    moved = frame.get_scaled_positions(wrap=False) - (start * (30, 30, 1)).get_scaled_positions()
    moved[:, :2] -= np.round(moved[:, :2])
    moved = moved @ frame.cell.array
    moved[:, 2] -= moved[:, 2].mean()
    assert np.allclose(moved.std(0), 0.1, rtol=0.05)
    assert np.allclose(moved.mean(0), 0.0, atol=0.01)
    assert frame.info["mode"] == "rattled"
    assert frame.info["nfu"] == 900


def test_strain_is_symmetric_with_the_deviation_asked_for() -> None:
    start = layer()
    sums, shears = [], []
    for frame in perturbed(start, [NOTHING], [0.02], n=400):
        deform = np.linalg.solve(start.cell.array[:2, :2], frame.cell.array[:2, :2])
        # A frame is turned so that a is along x; the metric tells the strain whatever the turn.
        strain = (deform @ deform.T - np.eye(2)) / 2
        sums.append(np.trace(strain))
        shears.append(strain[0, 1])
        assert frame.cell.array[2, 2] == start.cell.array[2, 2]
    assert np.std(sums) == pytest.approx(0.02 * 2**0.5, rel=0.15)
    assert np.std(shears) == pytest.approx(0.02, rel=0.15)


def test_scaled_frames() -> None:
    start = layer()
    frames = list(perturbed(start, scale=[(0.88, 1.15)], n=60))
    factors = np.array([frame.info["scale"] for frame in frames])
    assert 0.88 <= factors.min() < 0.92
    assert 1.11 < factors.max() <= 1.15
    for frame in frames:
        info = frame.info
        assert np.allclose(frame.cell.lengths()[:2], 3.18 * info["scale"])
        assert info["thickness_scale"] in (info["scale"], 1 / info["scale"])
        assert np.isclose(np.ptp(frame.positions[:, 2]), 3.12 * info["thickness_scale"], atol=0.4)
        assert info["mode"] == "scaled"
    along = [frame.info["thickness_scale"] == frame.info["scale"] for frame in frames]
    assert 10 < sum(along) < 50


@pytest.mark.parametrize(
    ("size", "mode"), [(0.03, "near"), (0.05, "rattled"), (0.15, "rattled"), (0.2, "hot")]
)
def test_modes_are_named(size, mode) -> None:
    (frame,) = perturbed(layer(config="MoS2-1H"), [(size, size)])
    assert frame.info["mode"] == mode
    assert frame.info["rattle"] == size
    assert frame.info["parent"] == frame.info["config"] == "MoS2-1H"
    assert (frame.info["material"], frame.info["phase"]) == ("MoS2", "1H")


def test_a_frame_depends_on_its_own_place_alone() -> None:
    few = list(perturbed(layer(), [(0.1, 0.1)], [0.02], n=2, seed=3))
    many = list(perturbed(layer(), [(0.1, 0.1), (0.2, 0.2)], [0.02], [(0.9, 1.1)], n=4, seed=3))
    assert all(equal(one, other) for one, other in zip(few, many, strict=False))
    assert not equal(few[0], few[1])
    assert not equal(few[0], next(perturbed(layer(), [(0.1, 0.1)], [0.02], seed=4)))
    other = next(perturbed(layer(a=3.2), [(0.1, 0.1)], [0.02], seed=3))
    assert not np.allclose(
        other.positions - layer(a=3.2).positions, few[0].positions - layer().positions, atol=1e-3
    )


def test_labels_of_the_parent_are_not_kept() -> None:
    start = layer(energy=-22.0, settings="PBE", kpts="9x9x1", x_Mo=1.0)
    (frame,) = perturbed(start, [(0.1, 0.1)])
    assert not {"energy", "settings", "kpts"} & set(frame.info)
    assert frame.info["x_Mo"] == 1.0
    assert frame.calc is None


def test_what_is_no_layer_is_refused() -> None:
    with pytest.raises(StructureError, match="no layer"):
        next(perturbed(Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True), [(0.1, 0.1)]))


def test_hot_frames(tmp_path) -> None:
    bulk = Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True)
    start = Atoms("Cu", cell=[2.6, 2.6, 20], positions=[[0, 0, 10]], pbc=(True, True, False))
    options = {"temperature": (100.0, 300.0), "frames": 4, "every": 5, "supercell": (2, 2)}
    folder = tmp_path / "hot"
    made = list(heated([start, bulk], morse(), move_many, folder, **options))
    errors = [item for item in made if isinstance(item, StructureError)]
    frames = [item for item in made if isinstance(item, Atoms)]
    assert len(errors) == 1
    assert "Cu: it is no layer" in str(errors[0])
    assert [frame.info["temperature"] for frame in frames] == [150.0, 200.0, 250.0, 300.0]
    assert {frame.info["mode"] for frame in frames} == {"hot"}
    assert all(frame.calc is None and len(frame) == 4 for frame in frames)
    assert len({frame.positions.tobytes() for frame in frames}) == 4
    assert not folder.exists()
    again = list(heated([start], morse(), move_many, folder, **options))
    assert all(equal(one, other) for one, other in zip(frames, again, strict=True))


def test_all_that_cannot_move_are_counted(tmp_path) -> None:
    atom = Atoms("Cu", cell=[2.6, 2.6, 20], positions=[[0, 0, 10]], pbc=(True, True, False))
    made = list(heated([atom, atom], morse(), move_many, tmp_path / "hot"))
    assert ["cannot move" in str(item) for item in made] == [True, True]


def test_an_interrupted_run_keeps_what_it_has(tmp_path) -> None:
    def stopped(structures, potential, output, **settings):
        output.write_text("begun")
        return [[] for _ in structures], [], 15

    with pytest.raises(KeyboardInterrupt):
        list(heated([layer()], morse(), stopped, tmp_path / "hot"))
    assert (tmp_path / "hot" / "batch-0000.extxyz").read_text() == "begun"
