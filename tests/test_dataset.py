"""HDF5: what goes in comes out, and batches."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.atoms import to_graph, to_labels
from mlff2d.errors import StructureError
from mlff2d.graph import Graph, Labels, collate, collate_labels
from mlff2d.training.data import convert as convert_module
from mlff2d.training.data import dataset as dataset_module
from mlff2d.training.data import frames as frames_module
from mlff2d.training.data.batches import epoch_batches, iter_batches, pack
from mlff2d.training.data.convert import convert, open_sources
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.record import Keys
from tests.training_helpers import monolayers, partly_labelled

CUTOFF = 4.0
FRAMES = monolayers(1)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "frames.extxyz"
    ase.io.write(path, partly_labelled())
    return path


@pytest.fixture(scope="module")
def data(source) -> Dataset:
    paths, _ = open_sources([source], source.parent, "material")
    return Dataset(paths, CUTOFF)


def assert_same(ours: Graph | Labels, theirs: Graph | Labels, atol: float = 1e-6) -> None:
    for name, value in vars(theirs).items():
        torch.testing.assert_close(
            getattr(ours, name), value, rtol=0, atol=atol, equal_nan=True, check_dtype=False
        )


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_equal_the_source(source, data, in_memory, monkeypatch, tmp_path):
    monkeypatch.setattr(convert_module, "_CHUNK", 5)  # several chunks, the last not full
    convert([source], tmp_path / "data.h5", Keys())
    data = Dataset(tmp_path / "data.h5", CUTOFF, in_memory=in_memory)
    frames = ase.io.read(source, ":")
    ids = [7, 3, 5, 0, 35, 4]
    graph, labels = data.batch(ids, torch.float64)
    assert_same(graph, collate([to_graph(frames[k], CUTOFF) for k in ids]))
    assert_same(labels, collate_labels([to_labels(frames[k]) for k in ids]))
    assert [data.material[k] for k in ids] == [frames[k].info["material"] for k in ids]
    assert data.name(7) == f"frames.extxyz frame 7 ({frames[7].info['material']})"


def test_precision_of_a_batch(data):
    graph, labels = data.batch([1, 2], torch.float32)
    assert graph.pos.dtype == labels.forces.dtype == labels.virial.dtype == torch.float32
    assert labels.energy.dtype == torch.float64
    assert graph.edge_index.dtype == graph.z.dtype == torch.int64


def test_two_sources_follow_each_other(source, tmp_path):
    other = tmp_path / "more.traj"
    ase.io.write(other, FRAMES[:3])
    summary = convert([source, other], tmp_path / "both.h5", Keys())
    both = Dataset(tmp_path / "both.h5", CUTOFF)
    assert len(both) == summary.n_taken == 39
    assert both.name(38) == f"more.traj frame 2 ({FRAMES[2].info['material']})"
    assert len({entry["sha256"] for entry in both.sources}) == 2


def test_conversion_is_reused_until_the_source_changes(source, tmp_path, monkeypatch):
    copy = tmp_path / "copy.extxyz"
    copy.write_bytes(source.read_bytes())
    first, summary = open_sources([copy], tmp_path, "material")
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "convert", lambda *args: pytest.fail("converted again"))
        assert open_sources([copy], tmp_path, "material") == (first, summary)
    ase.io.write(copy, FRAMES[:4])
    second, _ = open_sources([copy], tmp_path, "material")
    assert second != first
    assert len(Dataset(second, CUTOFF)) == 4


def test_refused_frames_are_counted_with_an_example(tmp_path):
    frames = [atoms.copy() for atoms in FRAMES[:6]]
    frames[1].positions[0, 0] = np.inf
    frames[4].positions[0] = frames[4].positions[1]
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    frames[2].calc = None
    ase.io.write(tmp_path / "mixed.traj", frames)
    _, summary = open_sources([tmp_path / "mixed.traj"], tmp_path, "material")
    assert (summary.n_frames, summary.n_taken) == (6, 3)
    assert summary.refused == {"no usable structure": 2, "no usable labels": 1}
    assert summary.examples["no usable structure"].startswith("mixed.traj, frame 1: ")


def test_conversion_that_fails_leaves_nothing(tmp_path):
    unlabelled = FRAMES[0].copy()
    unlabelled.calc = None
    ase.io.write(tmp_path / "none.extxyz", unlabelled)
    with pytest.raises(StructureError, match=r"none\.extxyz.*no energy"):
        open_sources([tmp_path / "none.extxyz"], tmp_path, "material")
    with pytest.raises(StructureError, match=r"absent\.extxyz"):
        open_sources([tmp_path / "absent.extxyz"], tmp_path, "material")
    assert [p.name for p in tmp_path.iterdir()] == ["none.extxyz"]


@settings(deadline=None)
@given(
    edges=st.lists(st.integers(0, 50), max_size=60),
    batch_size=st.integers(1, 10),
    batch_edges=st.integers(1, 120),
)
def test_packing_keeps_all_in_order_within_bounds(edges, batch_size, batch_edges):
    n_edges = np.array(edges, dtype=np.int64)
    batches = pack(np.arange(len(edges)), n_edges, batch_size, batch_edges)
    assert [s for batch in batches for s in batch] == list(range(len(edges)))
    for batch, following in zip_longest(batches, batches[1:], fillvalue=[]):
        assert 0 < len(batch) <= batch_size
        assert len(batch) == 1 or n_edges[batch].sum() <= batch_edges
        if following:  # it was closed for a reason
            more = n_edges[batch].sum() + n_edges[following[0]]
            assert len(batch) == batch_size or more > batch_edges


def test_epochs_differ_and_repeat(data):
    ids = np.arange(30)
    first = epoch_batches(ids, data.n_edges, 4, 10_000, seed=1, epoch=0)
    assert first == epoch_batches(ids, data.n_edges, 4, 10_000, seed=1, epoch=0)
    assert first != epoch_batches(ids, data.n_edges, 4, 10_000, seed=1, epoch=1)
    assert first != epoch_batches(ids, data.n_edges, 4, 10_000, seed=2, epoch=0)
    assert sorted(s for batch in first for s in batch) == ids.tolist()


def test_batches_arrive_in_order_and_errors_get_through(data):
    batches = [[1, 2], [0], [5, 4, 3]]
    made = list(iter_batches(data, batches, torch.float64, torch.device("cpu")))
    for ids, (graph, _) in zip(batches, made, strict=True):
        assert_same(graph, data.batch(ids, torch.float64)[0])
    assert list(iter_batches(data, [], torch.float64, torch.device("cpu"))) == []
    with pytest.raises(IndexError):
        list(iter_batches(data, [[0], [99]], torch.float64, torch.device("cpu")))


@pytest.fixture
def two(source, tmp_path, monkeypatch) -> list[Path]:
    """The same frames in two files, of 10 and 26 frames."""
    monkeypatch.setattr(convert_module, "_CHUNK", 4)
    frames = ase.io.read(source, ":")
    ase.io.write(tmp_path / "a.extxyz", frames[:10])
    ase.io.write(tmp_path / "b.extxyz", frames[10:])
    for name in ("a", "b"):
        convert([tmp_path / f"{name}.extxyz"], tmp_path / f"{name}.h5", Keys())
    return [tmp_path / "a.h5", tmp_path / "b.h5"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_several_files_are_as_one(two, data, in_memory):
    both = Dataset(two, CUTOFF, in_memory=in_memory)
    assert len(both) == len(data) == 36
    ids = [20, 9, 10, 35, 9, 0]  # in any order, and twice
    for ours, theirs in zip(both.batch(ids), data.batch(ids), strict=True):
        assert_same(ours, theirs, atol=0)
    for name in ("z", "pos", "forces"):
        np.testing.assert_array_equal(both.atoms_of(name, ids), data.atoms_of(name, ids))
        np.testing.assert_array_equal(
            both.atoms_of(name, np.arange(36)), data.atoms_of(name, np.arange(36))
        )
    for name in ("n_atoms", "n_edges", "isolated", "energy", "layer_group", "fingerprint"):
        np.testing.assert_array_equal(getattr(both, name), getattr(data, name))
    for name in ("max_force", "stress_2d", "max_stress_kbar"):
        np.testing.assert_array_equal(getattr(both, name), getattr(data, name))
    assert list(both.material) == list(data.material)
    assert both.material.names == data.material.names
    assert both.source.tolist() == [0] * 10 + [1] * 26
    assert both.name(10).startswith("b.extxyz frame 0")
    assert both.atoms_of("z", []).shape == (0,)
    assert both.rows_of("cell", []).shape == (0, 3, 3)


def test_trajectories_of_different_sources_are_different(two):
    both = Dataset([two[0], two[0], two[1]], CUTOFF)
    codes = both.trajectory.codes
    assert not set(codes[:10]) & set(codes[10:20])
    assert both.trajectory[3] == both.trajectory[13]
    assert both.material.codes[3] == both.material.codes[13]


def test_what_is_derived_of_a_frame(data, source):
    for s, atoms in enumerate(ase.io.read(source, ":")):
        stress = atoms.calc.results.get("stress")
        forces = atoms.calc.results.get("forces")
        if forces is None:
            assert np.isnan(data.max_force[s])
        else:
            assert data.max_force[s] == np.float32(np.abs(forces).max())
        if stress is None:
            assert np.isnan(data.stress_2d[s]).all()
            assert np.isnan(data.max_stress_kbar[s])
        else:
            xx, yy, _, _, _, xy = stress * atoms.cell[2, 2] * 16.02176634
            np.testing.assert_allclose(data.stress_2d[s], [xx, yy, xy], atol=1e-9)
            plane = np.abs(stress[[0, 1, 5]]).max() * 1602.176634
            assert data.max_stress_kbar[s] == pytest.approx(plane)


def with_energy(atoms: Atoms, energy: float) -> Atoms:
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, energy=energy)
    return copy


def test_fingerprints_tell_structures_apart(tmp_path):
    first = FRAMES[0]
    moved = first.copy()
    moved.positions += [0.7, -1.3, 0.4]
    wrapped = first.copy()
    wrapped.positions[1] += first.cell[0] - 2 * first.cell[1]
    taller = first.copy()
    taller.cell[2, 2] += 5.0
    close, other, strained = first.copy(), first.copy(), first.copy()
    close.positions[1, 0] += 2e-6
    other.positions[1, 0] += 3e-4
    strained.cell[0, 0] += 3e-4
    swapped = first.copy()
    swapped.numbers = swapped.numbers[::-1]
    same = [first, moved, wrapped, taller, close]
    ase.io.write(
        tmp_path / "f.traj", [with_energy(a, k) for k, a in enumerate([*same, other, strained])]
    )
    convert([tmp_path / "f.traj"], tmp_path / "f.h5", Keys())
    prints = Dataset(tmp_path / "f.h5", CUTOFF).fingerprint
    assert len(set(prints[:5].tolist())) == 1
    assert len(set(prints.tolist())) == 3
    if swapped.numbers[0] != swapped.numbers[1]:
        ase.io.write(tmp_path / "s.traj", with_energy(swapped, 0.0))
        convert([tmp_path / "s.traj"], tmp_path / "s.h5", Keys())
        assert Dataset(tmp_path / "s.h5", CUTOFF).fingerprint[0] not in prints


def test_a_state_makes_a_structure_another(tmp_path):
    frames = [with_energy(FRAMES[0], -1.0) for _ in range(3)]
    for atoms, temperature in zip(frames, (300.0, 300.0, 400.0), strict=True):
        atoms.info["T"] = temperature
    ase.io.write(tmp_path / "t.extxyz", frames)
    convert([tmp_path / "t.extxyz"], tmp_path / "t.h5", Keys(state=("T",)))
    data = Dataset(tmp_path / "t.h5", CUTOFF, in_memory=False)
    assert data.rows_of("state", [2, 0]).tolist() == [[400.0], [300.0]]
    assert data.batch([2])[0].state.tolist() == [[400.0]]
    assert data.fingerprint[0] == data.fingerprint[1] != data.fingerprint[2]


def test_energies_of_a_source_are_shifted(two, data):
    both = Dataset(two, CUTOFF)
    shift = {29: 0.5, 47: -2.0}
    both.shift_energies([1], shift)
    for s in range(36):
        z = data.atoms_of("z", [s])
        by = sum(shift.get(int(n), 0.0) for n in z) if s >= 10 else 0.0
        assert both.energy[s] == pytest.approx(data.energy[s] + by, nan_ok=True)
    assert both.batch([12, 3])[1].energy.tolist() == both.energy[[12, 3]].tolist()


def test_numbers_of_edges_are_kept_beside_the_file(two, monkeypatch):
    first = Dataset(two, CUTOFF, in_memory=False)
    counted = first.n_edges.tolist(), first.isolated.tolist()
    kept = two[0].with_name("a.edges-4.npz")
    assert kept.exists()
    with monkeypatch.context() as patch:
        patch.setattr(dataset_module, "find_edges", lambda *args: pytest.fail("counted again"))
        again = Dataset(two, CUTOFF, in_memory=False)
        assert (again.n_edges.tolist(), again.isolated.tolist()) == counted
    ase.io.write(two[0].with_suffix(".extxyz"), FRAMES[20:23])
    convert([two[0].with_suffix(".extxyz")], two[0], Keys())
    fresh = Dataset(two[0], CUTOFF, in_memory=False)
    assert len(fresh.n_edges) == 3, "another content is counted anew"
    assert fresh.n_edges.tolist() == [fresh.batch([s])[0].n_edges for s in range(3)]
    kept.write_bytes(kept.read_bytes()[:50])
    assert Dataset(two[0], CUTOFF, in_memory=False).n_edges.tolist() == fresh.n_edges.tolist()


def test_a_folder_that_is_read_only_does_no_harm(two, data, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(dataset_module.np, "savez", refuse)
    both = Dataset(two, CUTOFF)
    assert both.n_edges.tolist() == data.n_edges.tolist()
    assert not list(two[0].parent.glob("*.npz"))


def test_what_is_held_in_memory_is_bounded(two, data, monkeypatch):
    assert Dataset(two, CUTOFF).frames.in_memory
    assert not Dataset(two, CUTOFF, in_memory=False).frames.in_memory
    monkeypatch.setattr(dataset_module, "IN_MEMORY", 1000)
    small = Dataset(two, CUTOFF)
    assert not small.frames.in_memory
    assert Dataset(two, CUTOFF, in_memory=True).frames.in_memory
    for ours, theirs in zip(small.batch([3, 30]), data.batch([3, 30]), strict=True):
        assert_same(ours, theirs, atol=0)


@pytest.mark.parametrize("per_atom", [True, False])
def test_rows_are_right_whatever_is_asked(two, data, per_atom, monkeypatch):
    monkeypatch.setattr(frames_module, "_BLOCK", 3)
    lazy = Dataset(two, CUTOFF, in_memory=False)
    rng = np.random.default_rng(0)
    for dense in (1, 16, 10_000):
        monkeypatch.setattr(frames_module, "_DENSE", dense)
        for _ in range(20):
            ids = rng.integers(0, 36, rng.integers(1, 30))
            if per_atom:
                found, expected = lazy.atoms_of("pos", ids), data.atoms_of("pos", ids)
            else:
                found, expected = lazy.rows_of("virial", ids), data.rows_of("virial", ids)
            np.testing.assert_array_equal(found, expected)
    with pytest.raises(IndexError):
        lazy.rows_of("cell", [36])
    with pytest.raises(IndexError):
        lazy.rows_of("cell", [-1])
