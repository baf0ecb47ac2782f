"""M3GNet's bases against their definitions, and the model against its equations written out."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import eval_legendre, spherical_jn
from torch import Tensor
from torch.nn.functional import silu

from mlff2d.atoms import to_graph
from mlff2d.graph import Graph
from mlff2d.importers.matgl import m3gnet_config, m3gnet_weights
from mlff2d.models.m3gnet import M3GNet, M3GNetConfig
from mlff2d.nn.bessel import (
    SmoothRadialBasis,
    SphericalBesselBasis,
    spherical_bessel,
    spherical_bessel_roots,
)
from mlff2d.nn.gated import GatedMLP, PairGatedMLP
from mlff2d.nn.threebody import ThreeBodyBasis
from tests.parity import reference
from tests.structures import mos2, random_crystal

CUTOFF, THREEBODY_CUTOFF = 5.0, 4.0


def quadrature(cutoff: float) -> tuple[Tensor, Tensor]:
    """Points and weights of an integral over [0, cutoff] with the weight r^2."""
    x, w = np.polynomial.legendre.leggauss(100)
    r = 0.5 * cutoff * (x + 1)
    return torch.from_numpy(r), torch.from_numpy(0.5 * cutoff * w * r**2)


@pytest.mark.parametrize("degree", range(7))
def test_spherical_bessel_against_scipy(degree: int) -> None:
    x = torch.logspace(-3, 1.5, 400, dtype=torch.float64)
    expected = torch.from_numpy(spherical_jn(degree, x.numpy()))
    # An upward recurrence loses digits on the way, the most at the smallest x where it is used.
    assert spherical_bessel(degree, x).numpy() == pytest.approx(
        expected.numpy(), rel=1e-9, abs=1e-14
    )
    single = spherical_bessel(degree, x.float())
    assert single.dtype == torch.float32
    assert single.double().numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=2e-6)


@pytest.mark.parametrize("degree", range(4))
def test_spherical_bessel_is_twice_differentiable(degree: int) -> None:
    x = torch.tensor([0.01, 0.9, 1.1, 1.9, 2.1, 2.9, 3.1, 12.0], dtype=torch.float64)
    x.requires_grad_(True)

    def function(x: Tensor) -> Tensor:
        return spherical_bessel(degree, x)

    assert torch.autograd.gradcheck(function, x, eps=1e-5)
    assert torch.autograd.gradgradcheck(function, x, eps=1e-5)


def test_roots() -> None:
    roots = spherical_bessel_roots(3, 5)
    # Abramowitz and Stegun, table 10.6.
    known = [math.pi, 4.493409457909064, 5.763459196894550, 6.987932000500519]
    assert roots[:, 0].tolist() == pytest.approx(known, abs=1e-12)
    assert roots[1, 1] == pytest.approx(7.725251836937707, abs=1e-12)
    for degree, row in enumerate(roots):
        assert spherical_jn(degree, row.numpy()) == pytest.approx(np.zeros(5), abs=1e-13)
        assert (row.diff() > 3.0).all()


def test_bessel_basis_is_orthonormal_for_each_degree() -> None:
    basis = SphericalBesselBasis(4, 3, CUTOFF)
    r, weight = quadrature(CUTOFF)
    values = basis(r)
    assert values.shape == (100, 12)
    for block in values.split(4, dim=1):
        assert torch.allclose(
            block.T * weight @ block, torch.eye(4, dtype=torch.float64), atol=1e-9
        )
    edge = torch.tensor([CUTOFF - 1e-9, CUTOFF, CUTOFF + 0.1], dtype=torch.float64)
    assert basis(edge).abs().max() < 1e-8


def test_smooth_basis_follows_its_recursion() -> None:
    r = torch.linspace(0.3, CUTOFF - 0.01, 50, dtype=torch.float64)
    found = SmoothRadialBasis(4, CUTOFF)(r)
    previous, d_previous = torch.zeros_like(r), 1.0
    for n in range(4):
        a, b = (n + 1) * math.pi / CUTOFF, (n + 2) * math.pi / CUTOFF
        scale = (n + 1) * (n + 2) / math.sqrt((n + 1) ** 2 + (n + 2) ** 2)
        f = (-1) ** n * math.sqrt(2) * math.pi / CUTOFF**1.5 * scale
        f = f * (torch.sin(a * r) / (a * r) + torch.sin(b * r) / (b * r))
        g = n**2 * (n + 2) ** 2 / (4 * (n + 1) ** 4 + 1)
        d = 1 - g / d_previous if n else 1.0
        previous = (f + math.sqrt(g / d_previous) * previous) / math.sqrt(d)
        d_previous = d
        assert torch.allclose(found[:, n], previous, atol=1e-13)


def test_smooth_basis_is_orthonormal_and_ends_smoothly() -> None:
    basis = SmoothRadialBasis(5, CUTOFF)
    r, weight = quadrature(CUTOFF)
    assert torch.allclose(
        basis(r).T * weight @ basis(r), torch.eye(5, dtype=torch.float64), atol=1e-12
    )
    end = torch.full((5,), CUTOFF - 1e-7, dtype=torch.float64, requires_grad=True)
    value = basis(end).diagonal()
    (slope,) = torch.autograd.grad(value.sum(), end, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), end)
    assert value.abs().max() < 1e-12
    assert slope.abs().max() < 1e-10
    assert curvature.abs().max() < 1e-4
    beyond = torch.tensor([CUTOFF, CUTOFF + 0.2, 3 * CUTOFF], dtype=torch.float64)
    assert (basis(beyond) == 0.0).all()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_pair_gated_mlp_is_the_gated_mlp_of_the_joined_features(depth: int) -> None:
    torch.manual_seed(0)
    pair = PairGatedMLP(4, depth).double()
    plain = GatedMLP([12] + [4] * depth).double()
    plain.load_state_dict(pair.state_dict())
    nodes, edges = torch.randn(3, 4).double(), torch.randn(7, 4).double()
    edge_index = torch.randint(0, 3, (2, 7))
    joined = torch.cat([nodes[edge_index[0]], nodes[edge_index[1]], edges], dim=1)
    assert torch.allclose(pair(nodes, edges, edge_index), plain(joined), atol=1e-14)


@pytest.mark.parametrize("sizes", [[4], [4, 0], []])
def test_gated_mlp_without_layers_is_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="gated MLP"):
        GatedMLP(sizes)


def envelope(r: float) -> float:
    x = r / THREEBODY_CUTOFF
    return 1 - 10 * x**3 + 15 * x**4 - 6 * x**5 if x < 1 else 0.0


def sums_by_pairs(graph: Graph, weights: np.ndarray, n_radial: int, n_degrees: int) -> np.ndarray:
    """(E, B) three-body sums, one pair of edges after another."""
    volume = 4.0 / 3.0 * math.pi * CUTOFF**3
    vectors = graph.edge_vectors().numpy()
    lengths = np.linalg.norm(vectors, axis=1)
    receivers, neighbours = graph.edge_index.numpy()
    roots = spherical_bessel_roots(n_degrees, n_radial).numpy()
    total = np.zeros((graph.n_edges, n_degrees, n_radial))
    near = [e for e in range(graph.n_edges) if lengths[e] < THREEBODY_CUTOFF]
    for e in near:
        for f in near:
            if e == f or receivers[e] != receivers[f]:
                continue
            cosine = vectors[e] @ vectors[f] / (lengths[e] * lengths[f])
            falloff = envelope(lengths[e]) * envelope(lengths[f])
            for degree in range(n_degrees):
                y = math.sqrt((2 * degree + 1) / (4 * math.pi)) * eval_legendre(degree, cosine)
                z = roots[degree]
                norm = math.sqrt(volume * 2 / CUTOFF**3) / np.abs(spherical_jn(degree + 1, z))
                radial = norm * spherical_jn(degree, z * lengths[f] / CUTOFF)
                w = weights[neighbours[f]].reshape(n_degrees, n_radial)[degree]
                total[e, degree] += radial * y * w * falloff
    return total.reshape(graph.n_edges, n_degrees * n_radial)


def chain() -> Atoms:
    """A straight chain with all angles 0 or pi."""
    return Atoms("CSCS", [(0, 0, 1.5 * k) for k in range(4)])


@pytest.mark.parametrize(
    "atoms",
    [mos2(), bulk("Cu"), chain(), Atoms("C")],
    ids=["slab", "one atom per cell", "straight chain", "lone atom"],
)
@pytest.mark.parametrize(("n_radial", "n_degrees"), [(3, 3), (2, 5), (1, 1)])
def test_threebody_sums_against_the_sum_over_pairs(
    atoms: Atoms, n_radial: int, n_degrees: int
) -> None:
    graph = to_graph(atoms, CUTOFF)
    basis = ThreeBodyBasis(n_radial, n_degrees, CUTOFF, THREEBODY_CUTOFF)
    weights = torch.rand(graph.n_atoms, n_radial * n_degrees, dtype=torch.float64)
    vectors = graph.edge_vectors()
    near = basis(vectors, vectors.norm(dim=1), graph.edge_index, graph.n_atoms)
    found = torch.zeros(graph.n_edges, n_radial * n_degrees, dtype=torch.float64)
    found = found.index_add(0, near.rows, near.sums(weights))
    expected = sums_by_pairs(graph, weights.numpy(), n_radial, n_degrees)
    assert found.numpy() == pytest.approx(expected, abs=1e-12)


def gated(mlp: GatedMLP | PairGatedMLP, x: Tensor) -> Tensor:
    main = gate = x
    last = len(mlp.layers) - 1
    for k, (layer, gate_layer) in enumerate(zip(mlp.layers, mlp.gates, strict=True)):
        main, gate = layer(main), gate_layer(gate)
        gate = torch.sigmoid(gate) if k == last else silu(gate)
        main = main if k == last and not mlp.activate_last else silu(main)
    return main * gate


def written_out(model: M3GNet, graph: Graph) -> Tensor:
    """(N,) energies by the equations, on joined features and pairs of edges."""
    config, (i, j) = model.config, graph.edge_index
    radial = model.radial(graph.edge_vectors().norm(dim=1)) * math.sqrt(CUTOFF**3 / 3)
    v = model.embedding(torch.searchsorted(torch.tensor(config.elements), graph.z))
    e = silu(model.edge_embedding(radial))
    for block in model.blocks:
        weights = torch.sigmoid(block.threebody_weight(v)).detach().numpy()
        sums = torch.from_numpy(sums_by_pairs(graph, weights, config.n_radial, config.max_l))
        e = e + gated(block.threebody_update, sums)
        e = e + gated(block.edge_update, torch.cat([v[i], v[j], e], 1)) * block.edge_weight(radial)
        message = gated(block.node_update, torch.cat([v[i], v[j], e], 1))
        message = message * block.node_weight(radial)
        v = v + torch.stack([message[i == atom].sum(0) for atom in range(graph.n_atoms)])
    return gated(model.readout, v).squeeze(1)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_model_against_its_equations_written_out(smooth: bool, depth: int) -> None:
    torch.manual_seed(0)
    config = M3GNetConfig((6, 16, 42), n_blocks=2, channels=6, depth=depth, smooth=smooth)
    model = M3GNet(config).double()
    atoms = random_crystal(np.random.default_rng(3), 6, (True, True, True), [6, 16, 42])
    graph = to_graph(atoms, model.cutoff)
    with torch.no_grad():
        found = model(graph, graph.edge_vectors())
        assert torch.allclose(found, written_out(model, graph), atol=1e-12)


@pytest.mark.parametrize("name", ["m3gnet", "m3gnet-smooth", "m3gnet-far-end"])
def test_equal_to_matgl(name: str) -> None:
    stored = reference.read(f"matgl-{name}")
    defaults = {"element_types": ["H", "C", "S", "Cu", "Mo"], "max_n": 3, "max_l": 3}
    theirs, far_end = {**defaults, **stored.settings}, name == "m3gnet-far-end"
    weights = {k: torch.from_numpy(v) for k, v in stored.weights.items()}
    model = M3GNet(m3gnet_config(theirs, far_end)).double()
    model.load_state_dict(m3gnet_weights(weights, theirs, far_end))
    reference.compare(model, stored)


def test_sums_around_the_sender_are_those_of_the_reverse_edges() -> None:
    torch.manual_seed(0)
    atoms = random_crystal(np.random.default_rng(3), 4, (True, True, True), [6, 16, 42])
    graph = to_graph(atoms, CUTOFF)
    vectors = graph.edge_vectors()
    keys = torch.cat([graph.edge_index.T, graph.edge_shift], 1).tolist()
    reverse = [keys.index([b, a, -x, -y, -z]) for a, b, x, y, z in keys]
    basis = ThreeBodyBasis(2, 3, CUTOFF, THREEBODY_CUTOFF)
    weights = torch.rand(graph.n_atoms, 6, dtype=torch.float64)
    found = []
    for index in (graph.edge_index, graph.edge_index.flip(0)):
        near = basis(vectors, vectors.norm(dim=1), index, graph.n_atoms)
        sums = torch.zeros(graph.n_edges, 6, dtype=torch.float64)
        found.append(sums.index_add(0, near.rows, near.sums(weights)))
    assert torch.allclose(found[1], found[0][reverse], atol=1e-12)
    assert not torch.allclose(found[1], found[0], atol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [{"smooth_threebody": True}, {"threebody_center": "neighbour"}, {"hidden": 5}],
    ids=str,
)
def test_settings_for_other_weights_change_the_energies(settings: dict[str, object]) -> None:
    graph = to_graph(mos2(), CUTOFF)

    def energies(**settings: object) -> Tensor:
        torch.manual_seed(0)
        config = M3GNetConfig((16, 42), channels=8, **settings)  # type: ignore[arg-type]
        with torch.no_grad():
            return M3GNet(config).double()(graph, graph.edge_vectors())

    assert not torch.allclose(energies(**settings), energies(), rtol=1e-5)


def test_layers_are_those_of_the_public_checkpoint() -> None:
    # 89 elements, Bessel functions for the edges, three layers: 288 157 weights are published.
    elements = tuple(z for z in range(1, 95) if z not in (84, 85, 86, 87, 88))
    model = M3GNet(M3GNetConfig(elements, depth=3, smooth=False))
    assert sum(p.numel() for p in model.parameters()) == 288157
    assert model.edge_embedding.weight.shape == (64, 9)
    assert model.blocks[0].threebody_weight.weight.shape == (9, 64)


def force_on_last(model: M3GNet) -> Callable[[float], Tensor]:
    """Force on an atom as a function of its distance from the middle one of two others."""

    def force(distance: float) -> Tensor:
        atoms = Atoms("HCS", [(0, 1.1, 0), (0, 0, 0), (distance, 0, 0)])
        graph = to_graph(atoms, model.cutoff)
        graph.pos.requires_grad_(True)
        energy = model(graph, graph.edge_vectors()).sum()
        return torch.autograd.grad(energy, graph.pos)[0][2]

    return force


def random_model(**settings: object) -> M3GNet:
    torch.manual_seed(1)
    return M3GNet(M3GNetConfig((1, 6, 16), channels=16, **settings)).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("cutoff", [THREEBODY_CUTOFF, CUTOFF])
@pytest.mark.parametrize("settings", [{}, {"smooth_threebody": True}], ids=str)
def test_forces_and_their_slopes_are_continuous_at_both_cutoffs(
    cutoff: float, settings: dict[str, object]
) -> None:
    force = force_on_last(random_model(**settings))
    h = 1e-3
    below, above = [force(cutoff + side * h) for side in (-1, 1)]
    slope_below, slope_above = [
        (force(cutoff + side * 3 * h) - force(cutoff + side * h)) / (2 * h * side)
        for side in (-1, 1)
    ]
    scale = float(force(cutoff - 0.5).abs().max())
    assert float((above - below).abs().max()) < 2.5 * h * max(scale, float(slope_below.abs().max()))
    assert float((slope_above - slope_below).abs().max()) < 0.05 * scale


def test_bessel_edges_do_not_end_smoothly() -> None:
    # Shows that the test above can tell.
    force = force_on_last(random_model(smooth=False))
    assert float(force(CUTOFF - 1e-3).abs().max()) > 0.01 * float(force(CUTOFF - 0.5).abs().max())


@given(bend=st.sampled_from([0.0, 1e-12, 1e-8, 1e-4]), straight=st.booleans())
@settings(deadline=None, max_examples=8)
def test_second_derivatives_at_straight_and_folded_angles(bend: float, straight: bool) -> None:
    model = random_model()
    third = (0.0, bend, -1.6) if straight else (0.0, bend, 3.0)
    graph = to_graph(Atoms("CSH", [(0, 0, 0), (0, 0, 1.4), third]), CUTOFF)

    def energy(pos: Tensor) -> Tensor:
        i, j = graph.edge_index
        return model(graph, pos[j] - pos[i]).sum()

    hessian = torch.autograd.functional.hessian(energy, graph.pos).view(9, 9)
    pos = graph.pos.clone().requires_grad_(True)
    h = 1e-4
    step = torch.zeros(3, 3, dtype=torch.float64)
    step[2, 1] = h
    ahead, behind = [
        torch.autograd.grad(energy(pos + side * step), pos)[0].flatten() for side in (1, -1)
    ]
    expected = (ahead - behind) / (2 * h)
    assert torch.allclose(hessian[7], expected, atol=1e-6 * float(hessian.abs().max()))


def test_equal_elements_and_places_give_equal_energies() -> None:
    graph = to_graph(bulk("Cu", cubic=True), CUTOFF)
    model = M3GNet(M3GNetConfig((29,), channels=8)).double()
    with torch.no_grad():
        found = model(graph, graph.edge_vectors())
    assert torch.allclose(found, found[0].expand(4), atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"threebody_cutoff": 5.5}, "threebody_cutoff"),
        ({"threebody_cutoff": 0.0}, "threebody_cutoff"),
        ({"n_radial": 0}, "n_radial"),
        ({"max_l": 0}, "max_l"),
        ({"max_l": 14}, "max_l must be at most 13"),
        ({"channels": 0}, "channels"),
        ({"n_blocks": 0}, "n_blocks"),
        ({"depth": 0}, "depth"),
        ({"hidden": 0}, "hidden"),
        ({"smooth_threebody": 1}, "smooth_threebody"),
        ({"threebody_center": "neighbor"}, "Did you mean 'neighbour'"),
        ({"cutoff": float("nan")}, "cutoff"),
        ({"cutoff": float("inf")}, "cutoff"),
        ({"cutoff": 1e200}, "cutoff"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        M3GNetConfig(**settings)  # type: ignore[arg-type]
