"""HDF5: what goes in comes out; batches, filters and reference energies."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.atoms import to_graph, to_labels
from mlff2d.errors import StructureError
from mlff2d.graph import Graph, Labels, collate, collate_labels
from mlff2d.slab import stress_2d
from mlff2d.training.config import FilterConfig
from mlff2d.training.data import convert as convert_module
from mlff2d.training.data.batches import epoch_batches, iter_batches, pack
from mlff2d.training.data.convert import convert, convert_cached
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.filters import apply_filters
from mlff2d.training.data.references import compositions, fit_references, fit_scale
from tests.training_helpers import monolayers

CUTOFF = 4.0
FRAMES = monolayers(1)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """36 labelled frames, among them one without forces, one without stress, one with neither."""
    frames = [atoms.copy() for atoms in FRAMES]
    for k, (copy, atoms) in enumerate(zip(frames, FRAMES, strict=True)):
        results = dict(atoms.calc.results)
        if k in (3, 5):
            del results["forces"]
        if k in (4, 5):
            del results["stress"]
        copy.calc = SinglePointCalculator(copy, **results)
    path = tmp_path_factory.mktemp("source") / "frames.extxyz"
    ase.io.write(path, frames)
    return path


@pytest.fixture(scope="module")
def data(source) -> Dataset:
    path, _ = convert_cached([source], source.parent, "material")
    return Dataset(path, CUTOFF)


def assert_same(ours: Graph | Labels, theirs: Graph | Labels, atol: float = 1e-6) -> None:
    for name, value in vars(theirs).items():
        torch.testing.assert_close(
            getattr(ours, name), value, rtol=0, atol=atol, equal_nan=True, check_dtype=False
        )


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_equal_the_source(source, data, in_memory, monkeypatch, tmp_path):
    monkeypatch.setattr(convert_module, "_CHUNK", 5)  # several chunks, the last not full
    convert([source], tmp_path / "data.h5", "material")
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
    summary = convert([source, other], tmp_path / "both.h5", "material")
    both = Dataset(tmp_path / "both.h5", CUTOFF)
    assert len(both) == summary.n_taken == 39
    assert both.name(38) == f"more.traj frame 2 ({FRAMES[2].info['material']})"
    assert len({entry["sha256"] for entry in both.sources}) == 2


def test_conversion_is_reused_until_the_source_changes(source, tmp_path, monkeypatch):
    copy = tmp_path / "copy.extxyz"
    copy.write_bytes(source.read_bytes())
    first, summary = convert_cached([copy], tmp_path, "material")
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "convert", lambda *args: pytest.fail("converted again"))
        assert convert_cached([copy], tmp_path, "material") == (first, summary)
    ase.io.write(copy, FRAMES[:4])
    second, _ = convert_cached([copy], tmp_path, "material")
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
    _, summary = convert_cached([tmp_path / "mixed.traj"], tmp_path, "material")
    assert (summary.n_frames, summary.n_taken) == (6, 3)
    assert summary.refused == {"no usable structure": 2, "no usable labels": 1}
    assert summary.examples["no usable structure"].startswith("mixed.traj, frame 1: ")


def test_conversion_that_fails_leaves_nothing(tmp_path):
    unlabelled = FRAMES[0].copy()
    unlabelled.calc = None
    ase.io.write(tmp_path / "none.extxyz", unlabelled)
    with pytest.raises(StructureError, match=r"none\.extxyz.*no energy"):
        convert_cached([tmp_path / "none.extxyz"], tmp_path, "material")
    with pytest.raises(StructureError, match=r"absent\.extxyz"):
        convert_cached([tmp_path / "absent.extxyz"], tmp_path, "material")
    assert [p.name for p in tmp_path.iterdir()] == ["none.extxyz"]


def test_filters_count_what_each_removed(data):
    ids, removed = apply_filters(data, FilterConfig())
    assert len(ids) == 36
    force = np.array([np.abs(data.atoms_of("forces", [s])).max() for s in range(36)])
    stress = np.array(
        [np.abs(stress_2d(data.virial[s], data.cell[s], data.pbc[s])).max() for s in range(36)]
    )
    per_atom = data.energy / 2
    high = float(np.median(per_atom))
    config = FilterConfig(
        require=("forces",), max_energy=high, max_force=1.0, max_stress=4.0, max_atoms=2
    )
    ids, removed = apply_filters(data, config)
    left = ~np.isnan(force)
    expected = [2, 0, 0]
    for bad in (per_atom > high, force > 1.0, stress > 4.0):
        expected.append(int((left & bad).sum()))
        left &= ~bad
    assert [r.count for r in removed] == expected
    assert min(expected[3:]) > 0, "each rule should have something to remove"
    assert ids.tolist() == np.flatnonzero(left).tolist()


def test_filter_of_size_and_isolated_atoms(tmp_path):
    lone = FRAMES[0].copy()
    lone.positions[1, 2] += 6.0
    frames = [lone, FRAMES[1].copy(), FRAMES[2].copy() * (2, 1, 1)]
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    ase.io.write(tmp_path / "three.traj", frames)
    convert([tmp_path / "three.traj"], tmp_path / "three.h5", "material")
    data = Dataset(tmp_path / "three.h5", cutoff=3.0)  # shorter than a lattice vector
    ids, removed = apply_filters(data, FilterConfig(max_atoms=3))
    assert ids.tolist() == [1]
    assert [r.count for r in removed] == [1, 1]
    kept, _ = apply_filters(data, FilterConfig(isolated_atoms="keep"))
    assert kept.tolist() == [0, 1, 2]


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


def test_reference_energies_that_explain_everything_are_found(data):
    exact = {28: -3.0, 29: 1.0, 46: 0.5, 47: 12.0, 78: -20.0, 79: 2.0}
    ids = np.arange(len(data))
    shares = compositions(data, ids, tuple(exact))
    assert shares.sum(1) == pytest.approx(1)
    saved = data.energy.copy()
    try:
        data.energy[:] = shares @ np.array(list(exact.values())) * data.n_atoms
        assert fit_references(data, ids) == pytest.approx(exact)
        data.energy[:] = np.nan
        assert fit_references(data, ids) == dict.fromkeys(exact, 0.0)
    finally:
        data.energy[:] = saved


def test_elements_that_always_come_together_share(data):
    ids = np.flatnonzero([m == "Cu-Ag" for m in data.material])
    found = fit_references(data, ids)
    assert found[29] == pytest.approx(found[47])
    assert found[29] + found[47] == pytest.approx(data.energy[ids].mean())


def test_scale_is_the_force_or_else_the_spread_of_energies(data):
    ids = np.arange(len(data))
    references = fit_references(data, ids)
    forces = np.concatenate([a.get_forces() for k, a in enumerate(FRAMES) if k not in (3, 5)])
    assert fit_scale(data, ids, references) == pytest.approx(np.sqrt((forces**2).mean()), rel=1e-5)
    no_forces = np.array([3, 5])
    assert fit_scale(data, no_forces, fit_references(data, no_forces)) == 1.0
