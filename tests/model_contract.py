"""What every energy model must do: one class of tests, parametrised over the registry.

A test class that inherits `ModelContract` is parametrised by `name`, a key of REGISTRY.
"""

import json
import math
from dataclasses import fields, replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from mlff2d.atoms import to_graph
from mlff2d.graph import Graph, collate
from mlff2d.models import REGISTRY, build_config, build_model, model_config, model_name
from mlff2d.models.base import EnergyModel
from tests.potentials import SMALL
from tests.structures import mos2, random_crystal

SYSTEMS = ("slab", "bulk", "one atom per cell", "molecule")

SPECIAL = ("straight", "along y", "square", "close", "at the cutoff", "lone", "perfect crystal")

# No setting of any model can be any of these.
NONSENSE: list[object] = [None, math.nan, -math.inf, math.inf, -1, -2.5, 10**400, 1e300, "", "?"]
NONSENSE += [b"x", 1j, [None], [math.nan], [math.inf], [1.5], [True], [[1]], {"a": 1}, {-3}, object]

few = settings(deadline=None, max_examples=8)
seeds = st.integers(0, 2**31)


@lru_cache
def small_model(name: str) -> EnergyModel:
    """A float64 model with random weights; no test changes it."""
    torch.manual_seed(7)
    return build_model(name, SMALL[name]).double().eval()


def system(kind: str) -> Atoms:
    """A rattled structure of elements that the small models know."""
    if kind == "slab":
        return mos2()
    if kind == "bulk":
        return random_crystal(np.random.default_rng(5), 5, (True, True, True), [6, 16, 29])
    if kind == "one atom per cell":
        # Every neighbour is the atom itself, in another cell.
        atoms = bulk("Cu")
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * np.arange(9).reshape(3, 3) % 0.1))
        return atoms
    atoms = molecule("CH3SH")
    atoms.rattle(0.05, seed=2)
    return atoms


def special(kind: str, cutoff: float) -> Atoms:
    """A structure where careless derivatives are not finite."""
    if kind == "lone":
        return Atoms("Mo")
    if kind == "perfect crystal":
        return bulk("Cu", cubic=True)
    places = {
        "straight": [(-2.4, 0, 0), (0, 0, 0), (2.4, 0, 0)],
        "along y": [(0, -2.4, 0), (0, 0, 0), (0, 2.4, 0)],
        "square": [(2.4, 0, 0), (0, 0, 0), (0, 2.4, 0)],
        "close": [(0.5, 0, 0), (0, 0, 0), (0, 2.4, 0)],
        "at the cutoff": [(cutoff, 0, 0), (0, 0, 0), (0, 0, cutoff - 1.0)],
    }
    return Atoms("SMoS", places[kind])


def graph_of(atoms: Atoms, model: EnergyModel) -> Graph:
    """The float64 graph at the model's cutoff."""
    return to_graph(atoms, model.cutoff)


def energies(model: EnergyModel, graph: Graph) -> Tensor:
    """(N,) without gradient."""
    with torch.no_grad():
        return model(graph, graph.edge_vectors())


def pair_forces(model: EnergyModel, graph: Graph) -> tuple[Tensor, Tensor]:
    """(N,) energies and the (E, 3) gradient of their sum by the edge vectors, with graph."""
    edge_vec = graph.edge_vectors().requires_grad_(True)
    energy = model(graph, edge_vec)
    (gradient,) = torch.autograd.grad(energy.sum(), edge_vec, create_graph=True)
    return energy, gradient


def forces_of(model: EnergyModel, atoms: Atoms) -> np.ndarray:
    """(N, 3) forces on the atoms."""
    graph = graph_of(atoms, model)
    graph.pos.requires_grad_(True)
    energy = model(graph, graph.edge_vectors()).sum()
    (gradient,) = torch.autograd.grad(energy, graph.pos, allow_unused=True)
    return np.zeros((len(atoms), 3)) if gradient is None else -gradient.numpy()


def separated(model: EnergyModel, distance: float) -> tuple[Atoms, Atoms, Atoms]:
    """A molecule, another, and both, at least `distance` apart."""
    a, b = molecule("CH3SH"), molecule("SH2")
    b.positions[:, 0] += a.positions[:, 0].max() - b.positions[:, 0].min() + distance
    return a, b, a + b


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> bool:
    """Whether two tensors agree, measured by the greatest number expected."""
    found, expected = found.detach(), expected.detach()
    scale = float(expected.abs().max())
    return found.shape == expected.shape and bool(
        ((found - expected).abs() < tolerance * scale).all()
    )


class ModelContract:
    """Symmetries, derivatives, locality and bookkeeping of a model."""

    @pytest.mark.parametrize("kind", SYSTEMS)
    def test_energies_of_atoms(self, name: str, kind: str) -> None:
        model, atoms = small_model(name), system(kind)
        graph = graph_of(atoms, model)
        found = energies(model, graph)
        assert found.shape == (len(atoms),)
        assert found.dtype == torch.float64
        assert found.isfinite().all()
        # The other tests show nothing of a model that feels nothing.
        _, gradient = pair_forces(model, graph)
        assert gradient.abs().max() > 1e-4

    @pytest.mark.parametrize("kind", SYSTEMS)
    def test_features_tell_atoms_apart_and_are_invariant(self, name: str, kind: str) -> None:
        model, atoms = small_model(name), system(kind)
        graph = graph_of(atoms, model)
        rotation = torch.from_numpy(Rotation.random(rng=3).as_matrix())
        with torch.no_grad():
            found = model.features(graph, graph.edge_vectors())
            turned = model.features(graph, graph.edge_vectors() @ rotation.T)
        assert found.shape == (len(atoms), model.n_features)
        assert found.isfinite().all()
        assert close(turned, found)
        if kind == "slab":
            assert len(torch.unique(found.round(decimals=8), dim=0)) == len(atoms)

    @pytest.mark.parametrize("kind", SYSTEMS)
    @given(seed=seeds, mirrored=st.booleans())
    @few
    def test_rotation_and_inversion(self, name: str, kind: str, seed: int, mirrored: bool) -> None:
        model = small_model(name)
        graph = graph_of(system(kind), model)
        rotation = torch.from_numpy(Rotation.random(rng=seed).as_matrix()) * (-1) ** mirrored
        turned = model(graph, graph.edge_vectors() @ rotation.T).detach()
        assert close(turned, energies(model, graph))

    @pytest.mark.parametrize("kind", SYSTEMS)
    @given(shift=st.tuples(*[st.floats(-20, 20)] * 3))
    @few
    def test_translation(self, name: str, kind: str, shift: tuple[float, float, float]) -> None:
        model, atoms = small_model(name), system(kind)
        expected = energies(model, graph_of(atoms, model))
        atoms.translate(shift)
        atoms.wrap()
        assert close(energies(model, graph_of(atoms, model)), expected, 1e-9)

    @pytest.mark.parametrize("kind", SYSTEMS)
    @given(seed=seeds)
    @few
    def test_permutation(self, name: str, kind: str, seed: int) -> None:
        model, atoms = small_model(name), system(kind)
        order = np.random.default_rng(seed).permutation(len(atoms))
        found = energies(model, graph_of(atoms[order], model))
        assert close(found, energies(model, graph_of(atoms, model))[order])

    @pytest.mark.parametrize("kind", SYSTEMS)
    def test_edges_in_any_order(self, name: str, kind: str) -> None:
        model = small_model(name)
        graph = graph_of(system(kind), model)
        order = torch.randperm(graph.n_edges, generator=torch.Generator().manual_seed(0))
        mixed = replace(
            graph, edge_index=graph.edge_index[:, order], edge_shift=graph.edge_shift[order]
        )
        assert close(energies(model, mixed), energies(model, graph))

    @pytest.mark.parametrize("kind", ["slab", "bulk", "one atom per cell"])
    def test_supercell_repeats_the_cell(self, name: str, kind: str) -> None:
        model, atoms = small_model(name), system(kind)
        found = energies(model, graph_of(atoms * (2, 1, 1), model))
        assert close(found, energies(model, graph_of(atoms, model)).repeat(2))

    def test_batch_equals_single(self, name: str) -> None:
        model = small_model(name)
        structures = [*map(system, SYSTEMS), Atoms("Cu"), mos2(seed=3)]
        graphs = [graph_of(atoms, model) for atoms in structures]
        expected = torch.cat([energies(model, graph) for graph in graphs])
        assert close(energies(model, collate(graphs)), expected)

    def test_no_gradient_across_structures(self, name: str) -> None:
        model = small_model(name)
        graph = collate([graph_of(system(kind), model) for kind in SYSTEMS])
        edge_vec = graph.edge_vectors().requires_grad_(True)
        energy = model(graph, edge_vec)
        (gradient,) = torch.autograd.grad(energy[graph.batch == 1].sum(), edge_vec)
        felt = gradient.abs().sum(1) > 0
        assert felt[graph.edge_batch() == 1].any()
        assert not felt[graph.edge_batch() != 1].any()

    @pytest.mark.parametrize("kind", SYSTEMS)
    def test_gradient_by_edges_against_differences(self, name: str, kind: str) -> None:
        model = small_model(name)
        graph = graph_of(system(kind), model)
        _, gradient = pair_forces(model, graph)
        edge_vec, generator = graph.edge_vectors(), torch.Generator().manual_seed(0)
        for _ in range(3):
            direction = torch.randn(edge_vec.shape, generator=generator, dtype=torch.float64)
            # Edges near the cutoff, where the third derivative may jump, hold still.
            direction[edge_vec.norm(dim=1) > model.cutoff - 0.01] = 0.0

            def energy(step: float, direction: Tensor = direction) -> float:
                with torch.no_grad():
                    return float(model(graph, edge_vec + step * direction).sum())

            h = 2e-4
            expected = (8 * (energy(h) - energy(-h)) - (energy(2 * h) - energy(-2 * h))) / (12 * h)
            found = float((gradient.detach() * direction).sum())
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)

    def test_double_backward_reaches_every_parameter(self, name: str) -> None:
        torch.manual_seed(3)
        model = build_model(name, SMALL[name]).double().train()
        elements = list(SMALL[name]["elements"])  # type: ignore[call-overload]
        rng = np.random.default_rng(1)
        atoms = random_crystal(rng, len(elements) + 1, (True, True, False), [elements[0]])
        atoms.numbers[:-1] = elements
        graph = collate([graph_of(atoms, model), graph_of(mos2(), model)])
        energy, gradient = pair_forces(model, graph)
        gradients = torch.autograd.grad(
            gradient.pow(2).sum(), list(model.parameters()), retain_graph=True, allow_unused=True
        )
        assert all(g.isfinite().all() for g in gradients if g is not None)
        # A constant per element has no force, but an energy.
        (gradient.pow(2).sum() + energy.pow(2).sum()).backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, f"{parameter_name} is dead"
            assert parameter.grad.isfinite().all(), f"{parameter_name} is not finite"
            assert (parameter.grad != 0).any(), f"{parameter_name} is dead"

    def test_force_loss_gradient_against_differences(self, name: str) -> None:
        torch.manual_seed(3)
        model = build_model(name, SMALL[name]).double().train()
        graph = collate([graph_of(system(kind), model) for kind in SYSTEMS])
        parameters = list(model.parameters())
        directions = [torch.randn_like(p) for p in parameters]

        def loss(step: float) -> Tensor:
            for p, d in zip(parameters, directions, strict=True):
                p.data += step * d
            total = pair_forces(model, graph)[1].pow(2).sum()
            for p, d in zip(parameters, directions, strict=True):
                p.data -= step * d
            return total

        gradients = torch.autograd.grad(loss(0.0), parameters, allow_unused=True)
        found = sum(
            float((g * d).sum())
            for g, d in zip(gradients, directions, strict=True)
            if g is not None
        )
        h = 1e-4
        near, far = [float((loss(step) - loss(-step)).detach()) for step in (h, 2 * h)]
        assert found == pytest.approx((8 * near - far) / (12 * h), rel=1e-5)

    def test_smooth_at_the_cutoff(self, name: str) -> None:
        model = small_model(name)

        def at(distance: float) -> tuple[float, float]:
            atoms = Atoms("HSMo", [(0, 1.3, 0), (0, 0, 0), (distance, 0, 0)])
            return float(energies(model, graph_of(atoms, model)).sum()), forces_of(model, atoms)[
                2, 0
            ]

        beyond, zero = at(model.cutoff + 1e-6)
        assert zero == 0.0
        energy, force = at(model.cutoff - 1e-3)
        inside, pull = at(model.cutoff - 0.5)
        assert abs(inside - beyond) > 1e-6
        assert abs(energy - beyond) < 1e-4 * abs(inside - beyond)
        assert abs(force) < 1e-2 * abs(pull)

    @pytest.mark.parametrize("kind", SYSTEMS)
    def test_longer_edges_count_for_nothing(self, name: str, kind: str) -> None:
        # As a neighbour list with a skin has them.
        model, atoms = small_model(name), system(kind)
        found = energies(model, to_graph(atoms, model.cutoff + 1.0))
        assert close(found, energies(model, graph_of(atoms, model)))

    def test_far_apart_is_the_sum_of_the_parts(self, name: str) -> None:
        model = small_model(name)
        a, b, both = separated(model, model.cutoff + 0.1)
        expected = torch.cat([energies(model, graph_of(part, model)) for part in (a, b)])
        # A model with a global state says of itself that it feels everything.
        assert close(energies(model, graph_of(both, model)), expected) == model.is_local
        near = energies(model, graph_of(separated(model, 0.6 * model.cutoff)[2], model))
        assert not close(near, expected, 1e-6)

    @pytest.mark.parametrize("kind", SPECIAL)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_second_derivatives_where_geometry_is_special(
        self, name: str, kind: str, dtype: torch.dtype
    ) -> None:
        model = build_model(name, SMALL[name])
        model.load_state_dict(small_model(name).state_dict())
        atoms = special(kind, model.cutoff)
        graph = to_graph(atoms, model.cutoff + 0.5).to(dtype=dtype)  # longer edges too
        edge_vec = graph.edge_vectors().requires_grad_(True)
        energy = model.to(dtype)(graph, edge_vec)
        (slope,) = torch.autograd.grad(energy.sum(), edge_vec, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), edge_vec)
        assert all(found.isfinite().all() for found in (energy, slope, curvature))
        if kind == "perfect crystal":
            assert forces_of(small_model(name), atoms) == pytest.approx(0.0, abs=1e-9)

    @pytest.mark.parametrize("symbols", ["Mo", "CuCu"])
    def test_no_edges(self, name: str, symbols: str) -> None:
        torch.manual_seed(0)
        model = build_model(name, SMALL[name]).double()
        atoms = Atoms(symbols, [(30.0 * k, 0, 0) for k in range(len(Atoms(symbols)))])
        graph = graph_of(atoms, model)
        assert graph.n_edges == 0
        energy, gradient = pair_forces(model, graph)
        assert energy.shape == (len(atoms),)
        assert energy.isfinite().all()
        assert gradient.shape == (0, 3)
        (energy.sum() + gradient.sum()).backward()

    @pytest.mark.parametrize("kind", SYSTEMS)
    def test_float32_is_close_to_float64(self, name: str, kind: str) -> None:
        model, atoms = small_model(name), system(kind)
        graph = graph_of(atoms, model)
        energy, gradient = pair_forces(model, graph)
        single = build_model(name, SMALL[name])
        single.load_state_dict(model.state_dict())
        found, slope = pair_forces(single.float(), graph.to(dtype=torch.float32))
        assert found.dtype == slope.dtype == torch.float32
        assert close(found.double(), energy, 2e-5)
        assert close(slope.double(), gradient, 1e-4)

    def test_constants_have_the_precision_of_float64(self, name: str) -> None:
        # A model is built in float32 and made double; its weights are then what they are, but
        # its roots, norms and coupling coefficients must not be rounded.
        model = small_model(name)
        torch.set_default_dtype(torch.float64)
        try:
            exact = build_model(name, SMALL[name])
        finally:
            torch.set_default_dtype(torch.float32)
        exact.load_state_dict(model.state_dict())
        graph = graph_of(system("slab"), model)
        assert close(energies(model, graph), energies(exact, graph), 1e-12)

    def test_state_dict_and_config_make_the_same_model(self, name: str) -> None:
        model = small_model(name)
        config = json.loads(json.dumps(model_config(model)))
        assert model_name(model) == name
        again = build_model(name, config).double()
        assert again.config == model.config
        again.load_state_dict(model.state_dict(), strict=True)
        graph = graph_of(system("slab"), model)
        assert torch.equal(energies(again, graph), energies(model, graph))

    @pytest.mark.parametrize(
        ("setting", "value", "reason"),
        [
            ("cutof", 5.0, "cutoff"),
            ("cutoff", 0.0, "cutoff"),
            ("cutoff", 50.0, "cutoff must be at most 20 Å"),
            ("elements", (6, 6), "elements"),
            ("elements", (8, 1), "elements"),
            ("elements", (0, 1), "elements"),
            ("elements", (), "elements"),
        ],
    )
    def test_bad_config_is_refused(
        self, name: str, setting: str, value: object, reason: str
    ) -> None:
        with pytest.raises(ValueError, match=reason):
            build_model(name, {**SMALL[name], setting: value})

    @pytest.mark.parametrize("value", NONSENSE, ids=str)
    def test_nonsense_is_refused_by_every_setting(self, name: str, value: object) -> None:
        for field in fields(REGISTRY[name].Config):
            if value is None and field.default is None:
                continue
            with pytest.raises(ValueError, match=field.name):
                build_config(name, {field.name: value})
