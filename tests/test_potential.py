"""Derivatives against finite differences, and one slab, one answer."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mlff2d.atoms import to_graph
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.derivatives import STEPS, central, displaced, numerical_forces, numerical_virial
from mlff2d.errors import StructureError
from mlff2d.graph import collate
from mlff2d.models import REGISTRY
from mlff2d.potential import Potential
from mlff2d.priors import ZBL, ReferenceEnergies
from tests.potentials import random_potential
from tests.structures import VARIANTS, mos2, random_crystal, turn, variant

MODELS = sorted(REGISTRY)


def energy(potential: Potential, atoms: Atoms) -> float:
    with torch.no_grad():
        graph = to_graph(atoms, potential.cutoff)
        return float(potential(graph, forces=False, virial=False).energy)


def energies(potential: Potential) -> Callable[[Sequence[Atoms]], np.ndarray]:
    return lambda structures: np.array([energy(potential, atoms) for atoms in structures])


@pytest.mark.parametrize("name", MODELS)
def test_forces_are_minus_the_gradient(name: str) -> None:
    potential, atoms = random_potential(name), mos2()
    forces = potential(to_graph(atoms, potential.cutoff)).forces.numpy()
    numerical = numerical_forces(energies(potential), atoms)
    assert numerical == pytest.approx(forces, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["slab", "turned slab", "bulk"])
def test_virial_is_the_strain_derivative(name: str, kind: str) -> None:
    potential = random_potential(name)
    atoms = mos2() if kind != "bulk" else bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    if kind == "turned slab":
        turn(atoms)
    virial = potential(to_graph(atoms, potential.cutoff)).virial[0].numpy()
    normal = np.zeros(3)
    if kind != "bulk":
        a, b = atoms.cell.array[:2]
        normal = np.cross(a, b) / np.linalg.norm(np.cross(a, b))
        assert virial @ normal == pytest.approx(np.zeros(3), abs=1e-12)
    projector = np.eye(3) - np.outer(normal, normal)
    numerical = projector @ numerical_virial(energies(potential), atoms) @ projector
    assert np.abs(virial - numerical).max() < 1e-6 * np.abs(virial).max()


@pytest.mark.parametrize("name", MODELS)
def test_hessian_by_double_backward(name: str) -> None:
    potential, atoms = random_potential(name), mos2()
    graph = to_graph(atoms, potential.cutoff)
    graph.pos.requires_grad_(True)
    forces = potential(graph, create_graph=True).forces
    forces[3, 1].backward()
    row = graph.pos.grad.numpy()

    def force(step: float) -> float:
        moved = displaced(atoms, 0, 2, step)
        return float(potential(to_graph(moved, potential.cutoff)).forces[3, 1])

    assert central([force(step) for step in STEPS]) == pytest.approx(row[0, 2], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("case", VARIANTS)
def test_one_slab_one_answer(name: str, case: str) -> None:
    calculator = MLFF2DCalculator(random_potential(name), dtype="float64")
    calculator.calculate(mos2())
    expected = dict(calculator.results)
    atoms, rotation = variant(case)
    calculator.calculate(atoms)
    found = calculator.results
    assert found["energy"] == pytest.approx(expected["energy"], abs=1e-9)
    assert found["forces"] == pytest.approx(expected["forces"] @ rotation.T, abs=1e-9)
    assert found["virial"] == pytest.approx(rotation @ expected["virial"] @ rotation.T, abs=1e-9)
    assert np.abs(expected["stress_2d"]).max() > 1e-3
    if case in ("rotated", "axes permuted"):
        # The frame is then the slab's own: the first vector of mos2() lies along x.
        assert found["stress_2d"] == pytest.approx(expected["stress_2d"], abs=1e-8)
    else:
        assert found["stress_2d"] == pytest.approx(expected["stress_2d"], abs=1e-8)
    volume = abs(np.linalg.det(atoms.cell.array))
    if volume > 0:
        height = volume / np.linalg.norm(np.cross(*atoms.cell.array[~_vacuum(atoms)]))
        trace = found["stress"][:3].sum() * height * 16.02176634
        assert trace == pytest.approx(expected["stress_2d"][:2].sum(), abs=1e-7)
    else:
        assert "stress" not in found


def _vacuum(atoms: Atoms) -> np.ndarray:
    from mlff2d.atoms import vacuum_axis

    return np.arange(3) == vacuum_axis(atoms)


@pytest.mark.parametrize("name", MODELS)
def test_batch_equals_single(name: str) -> None:
    potential = random_potential(name)
    rng = np.random.default_rng(0)
    structures = [
        mos2(),
        random_crystal(rng, 4, (True, True, True), [6, 16]),
        random_crystal(rng, 3, (False, False, False), [1, 6]),
        Atoms("Cu", pbc=False),
        mos2(9.0, seed=4),
    ]
    graphs = [to_graph(a, potential.cutoff) for a in structures]
    batch = potential(collate(graphs))
    singles = [potential(g) for g in graphs]
    for field in ("energy", "energies", "forces", "virial"):
        joined = torch.cat([getattr(p, field) for p in singles])
        assert torch.allclose(getattr(batch, field), joined, rtol=1e-10, atol=1e-10), field
    assert torch.equal(batch.virial[2:4], torch.zeros(2, 3, 3, dtype=torch.float64))


def test_reference_energies_stay_exact_in_float32() -> None:
    potential = random_potential("nequip")
    exact = potential.references.as_dict()
    potential.float().double().float()
    assert potential.references.as_dict() == exact
    assert potential.dtype == torch.float32
    assert potential(to_graph(mos2(), 4.5).to(dtype=torch.float32)).energy.dtype == torch.float64


def test_the_fingerprint_is_that_of_all_the_energies_depend_on() -> None:
    def potential(zbl: bool = True) -> Potential:
        return random_potential("painn", zbl=zbl)

    first = potential().fingerprint()
    assert potential().fingerprint() == first
    scaled, shifted, turned = potential(), potential(), potential()
    scaled.scale *= 1 + 1e-12
    shifted.references = ReferenceEnergies(shifted.references.as_dict() | {1: -3.0})
    with torch.no_grad():
        list(turned.model.parameters())[-1][0] += 1e-9
    others = [scaled, shifted, turned, potential(zbl=False)]
    prints = [other.fingerprint() for other in others]
    assert len({first, *prints}) == 1 + len(others)


def test_unknown_element_is_named() -> None:
    with pytest.raises(StructureError, match="never seen Fe U; it knows H C S Cu Mo"):
        random_potential("nequip").check_elements([26, 6, 92])


def dimer(symbols: str, distance: float) -> Atoms:
    return Atoms(symbols, [[0, 0, 0], [0, 0, distance]])


def test_zbl_is_the_published_function_and_ends_smoothly() -> None:
    zbl = ZBL().double()

    def pair(distance: float) -> float:
        graph = to_graph(dimer("MoS", distance), 6.0)
        return float(zbl(graph, graph.edge_vectors()).sum())

    end = 0.75 * (1.54 + 1.05)
    x = 0.5 / end
    length = 0.8854 * 0.529177211 / (42**0.23 + 16**0.23)
    screened = sum(
        c * np.exp(-d * 0.5 / length)
        for c, d in [(0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162)]
    )
    envelope = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
    assert pair(0.5) == pytest.approx(14.399645 * 42 * 16 / 0.5 * screened * envelope, rel=1e-10)
    distances = np.linspace(0.45, end - 1e-4, 200)
    assert (np.diff([pair(d) for d in distances]) < 0).all()
    assert 0 < pair(end - 1e-3) < 1e-6
    assert pair(end + 1e-3) == 0
