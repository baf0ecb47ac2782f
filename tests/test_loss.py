"""The loss: its terms by hand, what is masked, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from mlff2d.atoms import to_graph
from mlff2d.graph import Graph, Labels, collate, collate_labels
from mlff2d.potential import Prediction
from mlff2d.training.loss import combine, errors_of, label_counts, loss_of, loss_sums
from mlff2d.training.metrics import MeanErrors
from mlff2d.training.sections import LossConfig
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

NAN = float("nan")


def slab(height: float = 15.0, pbc: tuple[bool, bool, bool] = (True, True, False)) -> Graph:
    atoms = Atoms("BN", [(0, 0, 5), (1.3, 0.7, 5.2)], cell=[3.0, 2.5, height], pbc=pbc)
    return to_graph(atoms, 4.0)


def case(
    graph: Graph, energy: float = 0.0, force: float = 0.0, virial: float = 0.0
) -> tuple[Prediction, Labels]:
    """A prediction off by known amounts from labels of random numbers."""
    rng = torch.Generator().manual_seed(0)
    labels = Labels(
        energy=torch.tensor([-7.0], dtype=torch.float64),
        forces=torch.randn(2, 3, generator=rng, dtype=torch.float64),
        virial=torch.randn(1, 3, 3, generator=rng, dtype=torch.float64),
    )
    prediction = Prediction(
        energy=labels.energy + energy,
        energies=torch.zeros(2, dtype=torch.float64),
        forces=labels.forces + torch.tensor([0.0, 0.0, force]),
        virial=labels.virial + virial * torch.ones(3, 3),
    )
    return prediction, labels


def loss(prediction: Prediction, labels: Labels, graph: Graph, **config: object) -> float:
    errors = errors_of(prediction, labels, graph)
    return float(loss_of(errors, LossConfig.model_validate(config)).detach())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mae", lambda x, delta: x),
        ("mse", lambda x, delta: x**2),
        ("huber", lambda x, delta: x**2 / 2 if x < delta else delta * (x - delta / 2)),
    ],
)
def test_terms_by_hand(kind, expected):
    graph = slab()
    prediction, labels = case(graph, energy=0.3, force=0.05, virial=0.02)
    terms = {
        "energy": expected(0.3 / 2, 0.02),
        "forces": expected(0.05, 0.1),
        # four components in the plane, each 0.02 eV over 3.0 x 2.5 Å²
        "stress": expected(2 * 0.02 / 7.5 * EV_PER_ANGSTROM2_IN_N_PER_M, 0.2),
    }
    for name, term in terms.items():
        weights = dict.fromkeys(terms, 0.0) | {name: 3.0}
        value = loss(prediction, labels, graph, kind=kind, **weights)
        assert value == pytest.approx(3.0 * term, rel=1e-5)
    together = loss(prediction, labels, graph, kind=kind, energy=1, forces=2, stress=0.5)
    assert together == pytest.approx(
        terms["energy"] + 2 * terms["forces"] + 0.5 * terms["stress"], rel=1e-5
    )


def test_stress_along_the_normal_is_masked_and_has_no_gradient():
    graph = slab()
    prediction, labels = case(graph)
    off = torch.zeros(1, 3, 3, dtype=torch.float64)
    off[0, 2, 2], off[0, 0, 2], off[0, 2, 1] = 5.0, 3.0, -2.0
    virial = (labels.virial + off).requires_grad_()
    wrong = Prediction(prediction.energy, prediction.energies, prediction.forces, virial)
    assert loss(wrong, labels, graph, stress=1.0) == pytest.approx(0.0, abs=1e-12)
    off[0, 0, 0] = 1.0
    virial = (labels.virial + off).requires_grad_()
    wrong = Prediction(prediction.energy, prediction.energies, prediction.forces, virial)
    loss_of(errors_of(wrong, labels, graph), LossConfig(stress=1.0)).backward()
    assert virial.grad[0, 0, 0] != 0
    assert virial.grad[0, 2].abs().max() == virial.grad[0, :, 2].abs().max() == 0


@pytest.mark.parametrize("height", [0.0, 8.0, 40.0])
def test_vacuum_does_not_matter(height):
    graph = slab(height)
    prediction, labels = case(graph, virial=0.1)
    reference, reference_labels = case(slab(), virial=0.1)
    assert loss(prediction, labels, graph, stress=1.0) == pytest.approx(
        loss(reference, reference_labels, slab(), stress=1.0)
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["mae", "mse", "huber"]))
def test_rotation_does_not_matter(seed, kind):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation = torch.from_numpy(q)
    graph = slab()
    prediction, labels = case(graph)
    prediction = Prediction(
        prediction.energy + 0.1,
        prediction.energies,
        prediction.forces + torch.from_numpy(rng.normal(size=(2, 3))),
        prediction.virial + torch.from_numpy(rng.normal(size=(1, 3, 3))),
    )

    def turned(tensor: torch.Tensor) -> torch.Tensor:
        return rotation @ tensor @ rotation.T

    graph_2 = Graph(**vars(graph) | {"cell": graph.cell @ rotation.T})
    labels_2 = Labels(labels.energy, labels.forces @ rotation.T, turned(labels.virial))
    prediction_2 = Prediction(
        prediction.energy,
        prediction.energies,
        prediction.forces @ rotation.T,
        turned(prediction.virial),
    )
    weights = {"kind": kind, "energy": 1.0, "forces": 1.0, "stress": 1.0}
    assert loss(prediction, labels, graph, **weights) == pytest.approx(
        loss(prediction_2, labels_2, graph_2, **weights)
    )


def test_absent_labels_count_for_nothing():
    graph = collate([slab(), slab(), slab(4.0, pbc=(True, True, True))])
    cases = [case(slab(), energy=1.0, force=0.2, virial=0.1) for _ in range(3)]
    labels = [labels for _, labels in cases]
    labels[1] = Labels(
        energy=torch.tensor([NAN], dtype=torch.float64),
        forces=torch.full((2, 3), NAN, dtype=torch.float64),
        virial=torch.full((1, 3, 3), NAN, dtype=torch.float64),
    )
    prediction = Prediction(
        *(
            torch.cat([getattr(p, name) for p, _ in cases]).requires_grad_()
            for name in ("energy", "energies", "forces", "virial")
        )
    )
    errors = errors_of(prediction, collate_labels(labels), graph)
    # The third is periodic along z too: it has an energy and forces, but no stress in N/m.
    assert (len(errors.energy), len(errors.forces), len(errors.stress)) == (2, 4, 1)
    value = loss_of(errors, LossConfig(stress=1.0))
    value.backward()
    assert torch.isfinite(value)
    assert prediction.forces.grad[2:4].abs().max() == 0
    assert torch.isfinite(prediction.virial.grad).all()
    mean = MeanErrors(LossConfig(stress=1.0))
    mean.add(errors)
    metrics = mean.result()
    assert metrics.loss == pytest.approx(float(value.detach()))
    assert metrics.energy == pytest.approx(0.5)
    assert metrics.forces == pytest.approx(0.2 / 3)
    assert metrics.stress == pytest.approx(0.1 / 7.5 * EV_PER_ANGSTROM2_IN_N_PER_M)


@pytest.mark.parametrize("name", ["energy", "forces", "virial"])
def test_a_prediction_that_is_nan_is_not_taken_for_an_absent_label(name):
    graph = slab()
    prediction, labels = case(graph)
    broken = Prediction(**vars(prediction) | {name: getattr(prediction, name) * NAN})
    assert np.isnan(loss(broken, labels, graph, stress=1.0))


@pytest.mark.parametrize("kind", ["mae", "mse", "huber"])
def test_a_perfect_prediction_has_no_loss_and_a_finite_gradient(kind):
    graph = slab()
    prediction, labels = case(graph)
    virial = labels.virial.clone().requires_grad_()
    forces = labels.forces.clone().requires_grad_()
    value = loss_of(
        errors_of(
            Prediction(prediction.energy, prediction.energies, forces, virial), labels, graph
        ),
        LossConfig(kind=kind, stress=1.0),
    )
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(forces.grad).all()
    assert torch.isfinite(virial.grad).all()


def batch_of(sizes: list[int], seed: int = 0) -> tuple[Graph, Labels, Prediction]:
    """Slabs of so many pairs of atoms, labelled and predicted at random, some labels missing."""
    rng = np.random.default_rng(seed)
    atoms = Atoms("BN", [(0, 0, 5), (1.3, 0.7, 5.2)], cell=[3.0, 2.5, 15.0], pbc=(1, 1, 0))
    graph = collate([to_graph(atoms.repeat((n, 1, 1)), 4.0) for n in sizes])
    n_structures, n_atoms = len(sizes), 2 * sum(sizes)

    def random(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    labels = Labels(random(n_structures), random(n_atoms, 3), random(n_structures, 3, 3))
    labels.energy[0], labels.forces[1], labels.virial[-1] = NAN, NAN, NAN
    prediction = Prediction(
        random(n_structures), random(n_atoms), random(n_atoms, 3), random(n_structures, 3, 3)
    )
    return graph, labels, prediction


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, -1.0])
def test_atoms_power_by_hand(power):
    sizes = [1, 3, 2, 5]
    graph, labels, prediction = batch_of(sizes)
    total = {"energy": [0.0, 0.0], "forces": [0.0, 0.0], "stress": [0.0, 0.0]}

    def count(name: str, error: float, weight: float) -> None:
        total[name][0] += weight * error
        total[name][1] += weight

    first = 0
    for s, n in enumerate(2 * np.array(sizes)):
        weight = float(n) ** power
        if s != 0:
            error = prediction.energy[s] - labels.energy[s]
            count("energy", abs(float(error)) / n, weight)
        for k in range(first, first + n):
            if k != 1:
                error = prediction.forces[k] - labels.forces[k]
                count("forces", float(error.norm()), weight)
        if s != len(sizes) - 1:
            virial = (prediction.virial[s] - labels.virial[s])[:2, :2]
            area = 3.0 * sizes[s] * 2.5
            error = virial.norm() / area * EV_PER_ANGSTROM2_IN_N_PER_M
            count("stress", float(error), weight)
        first += n
    config = LossConfig(energy=2.0, forces=3.0, stress=0.5, atoms_power=power)
    parts = [a / b for a, b in total.values()]
    expected = 2.0 * parts[0] + 3.0 * parts[1] + 0.5 * parts[2]
    assert float(loss_of(errors_of(prediction, labels, graph), config)) == pytest.approx(expected)


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["mae", "mse", "huber"])
def test_shares_of_batches_add_up_to_the_loss_of_all(kind, power):
    config = LossConfig(kind=kind, stress=1.0, atoms_power=power)
    batches = [batch_of(sizes, seed) for seed, sizes in enumerate([[1, 2], [3, 1, 1], [2, 5]])]
    counts = sum(label_counts(labels, graph, config) for graph, labels, _ in batches)
    shares = [
        combine(loss_sums(errors_of(prediction, labels, graph), config), counts, config)
        for graph, labels, prediction in batches
    ]
    graph = collate([graph for graph, _, _ in batches])
    labels = collate_labels([labels for _, labels, _ in batches])
    names = ("energy", "energies", "forces", "virial")
    prediction = Prediction(
        *(torch.cat([getattr(p, name) for _, _, p in batches]) for name in names)
    )
    whole = loss_of(errors_of(prediction, labels, graph), config)
    assert float(sum(shares)) == pytest.approx(float(whole), rel=1e-12)
    mean = MeanErrors(config)
    for graph, labels, prediction in batches:
        mean.add(errors_of(prediction, labels, graph))
    assert mean.result().loss == pytest.approx(float(whole), rel=1e-12)


def test_a_part_without_labels_is_zero_and_its_share_too():
    graph, labels, prediction = batch_of([1, 2])
    labels = Labels(labels.energy, torch.full_like(labels.forces, NAN), labels.virial * NAN)
    config = LossConfig(stress=1.0)
    counts = label_counts(labels, graph, config)
    assert counts.tolist() == [1.0, 0.0, 0.0]
    errors = errors_of(prediction, labels, graph)
    value = combine(loss_sums(errors, config), counts, config)
    assert float(value) == pytest.approx(float(errors.energy.abs().mean()))
