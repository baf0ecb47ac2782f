"""Batches of graphs, and labels from Atoms."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d.atoms import to_graph, to_labels
from mlff2d.graph import Graph, collate, collate_labels, split
from tests.structures import mos2


def same(a: Graph, b: Graph) -> bool:
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in vars(a))


def test_split_undoes_collate() -> None:
    structures = [mos2(), molecule("CH4"), Atoms("Cu"), bulk("Cu"), mos2(seed=3)]
    graphs = [to_graph(a, 4.0) for a in structures]
    batch = collate(graphs)
    assert batch.n_structures == 5
    assert batch.atoms_per_structure().tolist() == [6, 5, 1, 1, 6]
    assert (batch.batch.diff() >= 0).all()
    assert all(same(a, b) for a, b in zip(split(batch), graphs, strict=True))
    vectors = torch.cat([g.edge_vectors() for g in graphs])
    assert torch.allclose(batch.edge_vectors(), vectors, atol=1e-12)
    assert (batch.edge_vectors().norm(dim=1) < 4.0).all()


def test_nothing_to_collate() -> None:
    with pytest.raises(ValueError, match="empty list"):
        collate([])
    with pytest.raises(ValueError, match="empty list"):
        collate_labels([])


def test_labels_follow_ase() -> None:
    atoms = mos2()
    stress = np.array([0.1, 0.2, 0.3, 0.04, 0.05, 0.06])
    forces = np.arange(18.0).reshape(6, 3)
    atoms.calc = SinglePointCalculator(
        atoms, energy=-1.0, free_energy=-2.0, forces=forces, stress=stress
    )
    labels = to_labels(atoms)
    assert labels.energy.tolist() == [-2.0]
    assert np.array_equal(labels.forces.numpy(), forces)
    virial = labels.virial[0].numpy() / atoms.get_volume()
    expected = [[0.1, 0.06, 0.05], [0.06, 0.2, 0.04], [0.05, 0.04, 0.3]]
    assert virial == pytest.approx(np.array(expected))


def test_absent_labels_are_nan() -> None:
    bare = to_labels(mos2())
    assert torch.isnan(bare.energy).all()
    assert torch.isnan(bare.forces).all()
    assert torch.isnan(bare.virial).all()
    flat = mos2()
    flat.cell[2] = 0
    flat.calc = SinglePointCalculator(flat, energy=-1.0, stress=np.ones(6))
    assert torch.isnan(to_labels(flat).virial).all(), "a stress per volume needs a volume"
    assert to_labels(flat).energy.tolist() == [-1.0]


def test_to_keeps_energies_exact() -> None:
    atoms = mos2()
    atoms.calc = SinglePointCalculator(atoms, energy=-123456.123456789)
    labels = collate_labels([to_labels(atoms)] * 2).to(dtype=torch.float32)
    assert labels.energy.tolist() == [-123456.123456789] * 2
    assert labels.forces.dtype == torch.float32
    assert to_graph(atoms, 3.0).to(dtype=torch.float32).z.dtype == torch.int64
