"""SchNet against schnetpack, and its convolution against the equation written out."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from mlff2d.atoms import to_graph
from mlff2d.graph import Graph
from mlff2d.models import build_model
from mlff2d.models.schnet import SchNet, SchNetConfig
from mlff2d.nn.filters import AtomwiseReadout, RadialFilterBasis, shifted_softplus
from tests.parity import reference
from tests.parity.schnetpack_names import settings_of, weights_of
from tests.structures import mos2

LAYERS = {
    "blocks.{}.embed": "in2f",
    "blocks.{}.hidden": "f2out.0",
    "blocks.{}.out": "f2out.1",
    "filters.{}.hidden": "filter_network.0",
    "filters.{}.out": "filter_network.1",
}


def schnetpack_weights(ref: reference.Reference, n_blocks: int) -> dict[str, Tensor]:
    """Weights of schnetpack's SchNet by our names."""
    names = {
        our.format(k): f"representation.interactions.{k}.{their}"
        for k in range(n_blocks)
        for our, their in LAYERS.items()
    }
    return weights_of(ref, names)


@pytest.mark.parametrize("name", ["schnet", "schnet-shared"])
def test_equals_schnetpack(name: str) -> None:
    ref = reference.read(f"schnetpack-{name}")
    model = build_model("schnet", settings_of(ref)).double()
    assert isinstance(model, SchNet)
    model.load_state_dict(schnetpack_weights(ref, len(model.blocks)), strict=True)
    reference.compare(model, ref)


def small(**settings: object) -> SchNet:
    torch.manual_seed(0)
    config = {"elements": (6, 16, 42), "n_radial": 8, "channels": 6, "n_blocks": 2, **settings}
    model = SchNet(SchNetConfig(**config)).double()  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def ssp(x: Tensor) -> Tensor:
    return torch.log(0.5 * torch.exp(x) + 0.5)


def written_out(model: SchNet, graph: Graph) -> Tensor:
    """(N,) energies: atom by atom and edge by edge."""
    config, lengths = model.config, graph.edge_vectors().norm(dim=1)
    centres = torch.linspace(0, config.cutoff, config.n_radial, dtype=torch.float64)
    x = model.embedding(torch.searchsorted(torch.tensor(config.elements), graph.z))
    for k in range(config.n_blocks):
        own = 0 if config.shared_blocks else k
        block, network = model.blocks[own], model.filters[own]
        embedded = block.embed(x)
        rows = []
        for atom in range(graph.n_atoms):
            total = torch.zeros(config.n_filters or config.channels, dtype=torch.float64)
            for e in range(graph.n_edges):
                if graph.edge_index[0, e] == atom:
                    r = lengths[e]
                    width = config.cutoff / (config.n_radial - 1)
                    radial = torch.exp(-((r - centres) ** 2) / (2 * width**2))
                    filters = network.out(ssp(network.hidden(radial)))
                    u = r / config.cutoff
                    falloff = 1 - 28 * u**6 + 48 * u**7 - 21 * u**8
                    total = total + embedded[graph.edge_index[1, e]] * filters * falloff
            rows.append(block.out(ssp(block.hidden(total))))
        x = x + torch.stack(rows)
    return model.readout.out(ssp(model.readout.hidden(x))).squeeze(1)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n_filters", [0, 4])
def test_model_against_its_equations_written_out(shared: bool, n_filters: int) -> None:
    model = small(shared_blocks=shared, n_filters=n_filters, cutoff=3.4)
    graph = to_graph(mos2(), model.cutoff)
    with torch.no_grad():
        found = model(graph, graph.edge_vectors())
        assert torch.allclose(found, written_out(model, graph), atol=1e-12)


def chain(n: int) -> Atoms:
    """n carbon atoms in the periodic cell of a chain, 1.5 Å apart."""
    return Atoms("C" * n, [(1.5 * k, 0, 0) for k in range(n)], cell=(1.5 * n, 0, 0), pbc=(1, 0, 0))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_periodic_image_of_a_neighbour_counts(n: int) -> None:
    # The atom in the middle of a finite chain has the same neighbours within one cutoff, all of
    # them different atoms.
    model = small(n_blocks=1, cutoff=4.0)
    finite = Atoms("C" * 9, [(1.5 * k, 0, 0) for k in range(9)])
    graph, expected = to_graph(chain(n), model.cutoff), to_graph(finite, model.cutoff)
    pairs = {tuple(pair) for pair in graph.edge_index.T.tolist()}
    assert len(pairs) < graph.n_edges == 4 * n
    with torch.no_grad():
        found = model(graph, graph.edge_vectors())
        middle = model(expected, expected.edge_vectors())[4]
        assert torch.allclose(found, middle.expand(n), atol=1e-13)
        once = Graph(**{**vars(graph), "edge_index": graph.edge_index[:, ::2]})
        less = model(once, graph.edge_vectors()[::2])
    assert not torch.allclose(found, less, atol=1e-4)


def test_shared_blocks_are_one_block_repeated() -> None:
    shared, plain = small(shared_blocks=True, n_blocks=3), small(n_blocks=3)
    weights = shared.state_dict()
    for key in list(weights):
        for k in (1, 2):
            weights[key.replace("s.0.", f"s.{k}.")] = weights[key]
    plain.load_state_dict(weights)
    graph = to_graph(mos2(), shared.cutoff)
    vectors = graph.edge_vectors()
    with torch.no_grad():
        assert torch.allclose(shared(graph, vectors), plain(graph, vectors), atol=1e-13)


def test_shifted_softplus() -> None:
    x = torch.linspace(-30, 30, 61, dtype=torch.float64)
    assert torch.allclose(shifted_softplus(x), ssp(x), atol=1e-8)
    assert shifted_softplus(torch.zeros(1)) == 0.0
    x = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(shifted_softplus, x)


def test_radial_functions() -> None:
    r = torch.tensor([0.7, 2.0, 4.9, 5.0, 6.0], dtype=torch.float64)
    gaussian, polynomial = RadialFilterBasis("gaussian", 6, 5.0, "polynomial")(r)
    bessel, cosine = RadialFilterBasis("bessel", 3, 5.0, "cosine").double()(r)
    for k in range(6):
        assert gaussian[:, k].numpy() == pytest.approx(np.exp(-((r.numpy() - k) ** 2) / 2))
    for k in range(3):
        expected = np.sin((k + 1) * np.pi * r.numpy() / 5) / r.numpy()
        assert bessel[:, k].numpy() == pytest.approx(expected, abs=1e-14)
    assert float(cosine[1]) == pytest.approx((1 + math.cos(0.4 * math.pi)) / 2)
    assert float(polynomial[1]) == pytest.approx(1 - 28 * 0.4**6 + 48 * 0.4**7 - 21 * 0.4**8)
    assert (cosine[3:].abs() < 1e-16).all()
    assert (polynomial[3:] == 0.0).all()


@pytest.mark.parametrize(("envelope", "jump"), [("polynomial", False), ("cosine", True)])
def test_force_constants_at_the_cutoff(envelope: str, jump: bool) -> None:
    radial = RadialFilterBasis("gaussian", 8, 5.0, envelope)

    def curvature(x: float) -> float:
        r = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(radial(r)[1].sum(), r, create_graph=True)
        return float(torch.autograd.grad(slope.sum(), r)[0])

    assert curvature(5.1) == 0.0
    assert (abs(curvature(5.0 - 1e-6)) > 0.1) is jump


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_readout_has_half_the_channels_between(channels: int) -> None:
    readout = AtomwiseReadout(channels, shifted_softplus)
    assert readout.hidden.weight.shape == (max(1, channels // 2), channels)
    assert readout(torch.randn(5, channels)).shape == (5, 1)


def test_size_is_that_of_schnetpack() -> None:
    # 432 769 weights with 128 channels, 6 blocks, 20 radial functions and 100 elements.
    model = SchNet(SchNetConfig(elements=tuple(range(1, 101))))
    assert sum(p.numel() for p in model.parameters()) == 432769


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"radial": "gauss"}, "Did you mean 'gaussian'"),
        ({"envelope": "cos"}, "envelope is 'cos'"),
        ({"n_radial": 1}, "n_radial must be a whole number of at least 2"),
        ({"n_radial": 0, "radial": "bessel"}, "n_radial must be a whole number of at least 1"),
        ({"channels": 0}, "channels"),
        ({"n_filters": -1}, "n_filters must be a whole number of at least 0"),
        ({"n_blocks": 0}, "n_blocks"),
        ({"n_blocks": 2.0}, "n_blocks"),
        ({"shared_blocks": 1}, "shared_blocks must be true or false"),
        ({"cutoff": float("nan")}, "cutoff"),
        ({"cutoff": -1.0}, "cutoff"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SchNetConfig(**settings)  # type: ignore[arg-type]
