"""PaiNN against schnetpack, and its blocks against the equations written out."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, mx2
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import linear, silu

from mlff2d.atoms import to_graph
from mlff2d.graph import Graph
from mlff2d.models import build_model
from mlff2d.models.painn import PaiNN, PaiNNConfig
from tests.parity import reference
from tests.parity.schnetpack_names import painn_weights, settings_of
from tests.structures import mos2


@pytest.mark.parametrize("name", ["painn", "painn-shared", "painn-filters"])
def test_equals_schnetpack(name: str) -> None:
    ref = reference.read(f"schnetpack-{name}")
    settings = settings_of(ref)
    model = build_model("painn", {"epsilon": 1e-8, **settings}).double()
    assert isinstance(model, PaiNN)
    model.load_state_dict(painn_weights(ref, model), strict=True)
    reference.compare(model, ref)


def small(**settings: object) -> PaiNN:
    torch.manual_seed(0)
    config = {"elements": (6, 16, 29, 42), "n_radial": 5, "channels": 6, **settings}
    model = PaiNN(PaiNNConfig(**config)).double()  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def written_out(model: PaiNN, graph: Graph) -> Tensor:
    """(N,) energies: all parts of all blocks, edge by edge, vectors as (N, 3, C)."""
    config, c = model.config, model.config.channels
    edge_vec = graph.edge_vectors()
    s = model.embedding(torch.searchsorted(torch.tensor(config.elements), graph.z))
    v = torch.zeros(graph.n_atoms, 3, c, dtype=torch.float64)
    orders = torch.arange(1, config.n_radial + 1, dtype=torch.float64)
    for k in range(config.n_blocks):
        message = model.messages[0 if config.shared_blocks else k]
        update = model.updates[0 if config.shared_blocks else k]
        filters = model.filters[0 if config.shared_filters else k]
        phi = message.out(silu(message.hidden(s)))
        ds, dv = torch.zeros_like(s), torch.zeros_like(v)
        for e, (i, j) in enumerate(graph.edge_index.T.tolist()):
            r = edge_vec[e].norm()
            u = r / config.cutoff
            falloff = 1 - 28 * u**6 + 48 * u**7 - 21 * u**8
            radial = torch.sin(orders * torch.pi * u) / r
            split = (phi[j] * filters(radial) * falloff).split(c)
            ds[i] += split[0]
            dv[i] += torch.outer(edge_vec[e] / r, split[1]) + v[j] * split[2]
        s, v = s + ds, v + dv
        first, second = linear(v, update.mix.weight).split(c, dim=-1)
        length = (first.square().sum(1) + config.epsilon).sqrt()
        a_ss, a_sv, a_vv = update.out(silu(update.hidden(torch.cat([s, length], 1)))).split(c, 1)
        s, v = s + a_ss + a_sv * (first * second).sum(1), v + a_vv.unsqueeze(1) * second
    return model.readout.out(silu(model.readout.hidden(s))).squeeze(1)


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
@pytest.mark.parametrize("shared_blocks", [False, True])
@pytest.mark.parametrize("shared_filters", [False, True])
def test_model_against_its_equations_written_out(
    n_blocks: int, shared_blocks: bool, shared_filters: bool
) -> None:
    model = small(
        n_blocks=n_blocks, shared_blocks=shared_blocks, shared_filters=shared_filters, cutoff=3.4
    )
    graph = to_graph(mos2(), model.cutoff)
    with torch.no_grad():
        found = model(graph, graph.edge_vectors())
        assert torch.allclose(found, written_out(model, graph), atol=1e-11)


def test_vectors_tell_angles_apart() -> None:
    # A scalar convolution of one block cannot: the distances to the middle atom are the same.
    model = small(n_blocks=1, cutoff=2.5)

    def energy_of_middle(degrees: float) -> Tensor:
        a = np.radians(degrees)
        atoms = Atoms("SCC", [(0, 0, 0), (1.8, 0, 0), (1.8 * np.cos(a), 1.8 * np.sin(a), 0)])
        graph = to_graph(atoms, model.cutoff)
        return model(graph, graph.edge_vectors())[0].detach()

    assert abs(energy_of_middle(100.0) - energy_of_middle(140.0)) > 1e-5


def vectors_of(model: PaiNN, graph: Graph, edge_vec: Tensor) -> Tensor:
    """(3, N, C) vectors that come into the last update."""
    caught = []
    hook = model.updates[-1].register_forward_pre_hook(lambda _, args: caught.append(args[1]))
    with torch.no_grad():
        model(graph, edge_vec)
    hook.remove()
    return caught[0]


def test_vectors_turn_with_the_structure() -> None:
    model = small()
    graph = to_graph(mos2(), model.cutoff)
    rotation = torch.from_numpy(Rotation.random(rng=3).as_matrix()) * -1
    found = vectors_of(model, graph, graph.edge_vectors() @ rotation.T)
    plain = vectors_of(model, graph, graph.edge_vectors())
    assert plain.abs().max() > 0.1
    assert torch.allclose(found, torch.einsum("xy,ync->xnc", rotation, plain), atol=1e-12)


def test_vectors_vanish_where_symmetry_says_so() -> None:
    model = small()
    graph = to_graph(bulk("Cu"), model.cutoff)
    assert vectors_of(model, graph, graph.edge_vectors()).abs().max() < 1e-12


@pytest.mark.parametrize("atoms", [bulk("Cu") * (2, 1, 1), mx2("MoS2", vacuum=7.0)])
def test_force_constants_of_perfect_crystals_are_what_displacements_feel(atoms: Atoms) -> None:
    # Where vectors vanish by symmetry their length has a kink, which epsilon rounds off.
    def force_constants(**settings: float) -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        model = PaiNN(PaiNNConfig(elements=(16, 29, 42), cutoff=4.0, **settings)).double()
        graph = to_graph(atoms, model.cutoff)
        i, j = graph.edge_index
        shift = graph.edge_vectors() - graph.pos[j] + graph.pos[i]

        def slope(displacement: float) -> tuple[Tensor, Tensor]:
            pos = graph.pos.clone()
            pos[0, 0] += displacement
            pos.requires_grad_(True)
            energy = model(graph, pos[j] - pos[i] + shift).sum()
            return torch.autograd.grad(energy, pos, create_graph=True)[0], pos

        here, pos = slope(0.0)
        exact = torch.autograd.grad(here[0, 0], pos)[0]
        return exact, (slope(0.01)[0] - slope(-0.01)[0]) / 0.02

    exact, felt = force_constants()
    assert float((exact - felt).detach().abs().max()) < 0.15
    exact, felt = force_constants(epsilon=1e-8)
    assert float((exact - felt).detach().abs().max()) > 100.0


def test_lone_atoms_have_finite_second_derivatives() -> None:
    model = small()
    graph = to_graph(Atoms("CS", [(0, 0, 0), (0, 0, model.cutoff - 1e-3)]), model.cutoff)
    edge_vec = graph.edge_vectors().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(graph, edge_vec).sum(), edge_vec, create_graph=True)
    (second,) = torch.autograd.grad(gradient[0, 2], edge_vec)
    assert second.isfinite().all()
    lone = to_graph(Atoms("C"), model.cutoff)
    energy = model(lone, lone.edge_vectors())
    energy.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_size_is_that_of_schnetpack() -> None:
    # 589 057 weights with 128 channels, 3 blocks, 20 radial functions and 100 elements.
    model = PaiNN(PaiNNConfig(elements=tuple(range(1, 101))))
    assert sum(p.numel() for p in model.parameters()) == 589057


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"radial": "besel"}, "Did you mean 'bessel'"),
        ({"envelope": "cosinus"}, "Did you mean 'cosine'"),
        ({"n_radial": 1, "radial": "gaussian"}, "n_radial must be a whole number of at least 2"),
        ({"n_radial": 0}, "n_radial must be a whole number of at least 1"),
        ({"channels": 0}, "channels"),
        ({"n_blocks": 0}, "n_blocks"),
        ({"shared_blocks": "yes"}, "shared_blocks must be true or false"),
        ({"shared_filters": None}, "shared_filters must be true or false"),
        ({"epsilon": 0.0}, "epsilon must be a positive number"),
        ({"epsilon": -1e-8}, "epsilon must be a positive number"),
        ({"cutoff": float("inf")}, "cutoff"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PaiNNConfig(**settings)  # type: ignore[arg-type]
