"""NequIP against the same equations in e3nn, and its settings; `test_models` has the contract."""

import math
import re

import numpy as np
import pytest
import torch
from ase import Atoms
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlff2d.atoms import to_graph
from mlff2d.graph import Graph
from mlff2d.models.nequip import InteractionLayer, NequIP, NequIPConfig
from tests.e3nn_nequip import reference_layer
from tests.parity import reference
from tests.parity.nequip_weights import peer_model
from tests.structures import random_crystal

ELEMENTS = (1, 6, 16)
CUTOFF = 3.5
UNIVERSAL: dict = {"neighbor_exponent": 1.0, "residual": 0.5, "norm": "rms"}
IRREPS = st.sampled_from(["0e", "0o", "1o", "1e", "2e", "2o", "3o", "3e"])
SUMS = st.lists(st.tuples(st.integers(1, 3), IRREPS), min_size=1, max_size=6).map(
    lambda terms: "+".join(f"{mul}x{ir}" for mul, ir in terms)
)


def config(hidden_irreps: str = "4x0e+3x1o+2x2e", **settings: object) -> NequIPConfig:
    """A small model's settings."""
    small: dict = {"elements": ELEMENTS, "cutoff": CUTOFF, "n_bessel": 4, "radial_hidden": (8,)}
    return NequIPConfig(hidden_irreps=hidden_irreps, **{**small, **settings})


def model_of(settings: NequIPConfig, seed: int = 0) -> NequIP:
    """A float64 model with random weights."""
    torch.manual_seed(seed)
    return NequIP(settings).double()


def crystal(seed: int = 0) -> Graph:
    """A random crystal with all elements."""
    rng = np.random.default_rng(seed)
    atoms = random_crystal(rng, 5, (True, True, True), list(ELEMENTS))
    atoms.numbers[: len(ELEMENTS)] = ELEMENTS
    return to_graph(atoms, CUTOFF)


@pytest.mark.parametrize(
    "settings",
    [
        config(n_layers=2, avg_neighbors=7.0),
        config("4x0e+2x0o+3x1o+2x1e+2x2e+1x2o", n_layers=6, radial_hidden=(8, 8)),
        config(n_layers=3, avg_neighbors=7.0, norm="rms"),
        config(n_layers=3, avg_neighbors=7.0, neighbor_exponent=1.0, residual=0.5),
        config(n_layers=6, **UNIVERSAL),
        config(self_connection="embedding", first_self_connection=False, embedding_channels=5),
        config(self_connection="linear", readout_hidden=(), norm="rms", norm_epsilon=1e-4),
        config(
            "4x0e+3x1e+2x2e+1x3e",
            l_max=3,
            parity=False,
            self_connection="linear",
            trainable_bessel=True,
            switch_start=2.5,
            readout_hidden=(3, 2),
        ),
    ],
)
def test_against_e3nn(settings: NequIPConfig) -> None:
    model, graph = model_of(settings), crystal()
    edge_vec = graph.edge_vectors()
    r = edge_vec.norm(dim=1, keepdim=True)
    p, u = settings.envelope_p, r / settings.cutoff
    envelope = 1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1)
    envelope = envelope - p * (p + 1) / 2 * u ** (p + 2)
    n = torch.arange(1, settings.n_bessel + 1, dtype=torch.float64)
    if start := settings.switch_start:
        c2, a2 = settings.cutoff**2, start**2
        switch = (c2 - r**2) ** 2 * (c2 + 2 * r**2 - 3 * a2) / (c2 - a2) ** 3
        envelope = torch.where(r < start, 1.0, switch)
    if settings.trainable_bessel:
        with torch.no_grad():
            model.basis.bessel.orders.add_(0.1 * torch.rand(settings.n_bessel))
        n = model.basis.bessel.orders
    radial = math.sqrt(2 / 3) * settings.cutoff * torch.sin(n * math.pi * u) / r * envelope
    harmonics = o3.spherical_harmonics(
        list(range(settings.l_max + 1)), edge_vec, True, normalization="component"
    )
    one_hot = (graph.z.unsqueeze(1) == torch.tensor(ELEMENTS)).double()
    x = embedding = one_hot @ model.embedding
    outputs = settings.layer_irreps()
    inputs = [o3.Irreps(f"{x.shape[1]}x0e"), *outputs[:-1]]
    for layer, *irreps in zip(model.layers, inputs, outputs, strict=True):
        assert isinstance(layer, InteractionLayer)
        x = reference_layer(
            layer,
            settings,
            tuple(irreps),
            x,
            one_hot,
            embedding,
            harmonics,
            radial,
            graph.edge_index,
        )
    *hidden, last = (layer.get_parameter("weight") for layer in model.readout.layers)
    for weight in hidden:
        x = torch.nn.functional.silu(x @ weight.T / math.sqrt(x.shape[1])) * 1.6765324703310907
    expected = 0.1 * (x @ last.T).flatten() / math.sqrt(x.shape[1])
    found = model(graph, edge_vec)
    assert found.std() > 1e-4
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def settled(text: str, l_max: int, n_layers: int, **others: object) -> NequIPConfig:
    """The settings, or the ones that the refusals lead to."""
    for _ in range(6):
        try:
            return config(text, l_max=l_max, n_layers=n_layers, **others)
        except ValueError as error:
            advice = str(error)
        if match := re.search(r"use l_max = (\d+)$", advice):
            l_max = int(match[1])
        else:
            match = re.search(r"use '([^']+)'$", advice)
            assert match, advice
            text = match[1]
    raise AssertionError(f"no advice leads to a model: {advice}")


@given(
    text=SUMS,
    l_max=st.integers(0, 3),
    n_layers=st.integers(1, 6),
    seed=st.integers(0, 999),
    others=st.sampled_from([{}, UNIVERSAL, {"parity": False, "self_connection": "linear"}]),
)
@settings(deadline=None, max_examples=25)
def test_any_irreps_are_advised_invariant_and_pruned(
    text: str, l_max: int, n_layers: int, seed: int, others: dict
) -> None:
    # Whatever is asked for, following the advice leads to a model, ...
    model = model_of(settled(text, l_max, n_layers, **others), seed)
    graph = crystal(seed)
    edge_vec = graph.edge_vectors()
    energy = model(graph, edge_vec)
    mirrored = seed % 2 and model.config.parity
    rotation = o3.rand_matrix(dtype=torch.float64) * (-1) ** mirrored
    # ... which keeps the symmetries, ...
    assert torch.allclose(model(graph, edge_vec @ rotation.T), energy, rtol=0, atol=1e-10)
    # ... and computes nothing that does not reach the energy.
    energy.pow(2).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is dead"
        assert (parameter.grad != 0).any(), f"{name} is dead"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_irreps": "8x1o"}, "has no 0e.*use '64x0e\\+8x1o'$"),
        ({"hidden_irreps": ""}, "has no 0e.*use '64x0e'$"),
        ({"hidden_irreps": "8x0e+4x1k"}, "is not a sum of irreps; use '8x0e'$"),
        ({"hidden_irreps": "eight"}, "is not a sum of irreps; use '64x0e"),
        ({"hidden_irreps": 8}, "hidden_irreps must be a sum of irreps such as .64x0e.*, not 8"),
        # A pseudoscalar comes from 1e, and only there it can go.
        ({"hidden_irreps": "8x0e+2x0o+4x1o"}, "by way of 2x0o to the energy; use '8x0e\\+4x1o'$"),
        ({"hidden_irreps": "8x0e+4x1o", "n_layers": 1, "l_max": 1}, "use '8x0e'$"),
        ({"hidden_irreps": "8x0e+4x1o+2x2e", "l_max": 0}, "use '8x0e'$"),
        ({"hidden_irreps": "8x0e+4x1o", "l_max": 3}, "use l_max = 2$"),
        ({"cutoff": 0}, "cutoff must be a positive number"),
        ({"cutoff": math.nan}, "cutoff must be a positive number"),
        ({"cutoff": "5"}, "cutoff must be a positive number"),
        ({"avg_neighbors": 0.0}, "avg_neighbors must be a positive number"),
        ({"neighbor_exponent": 1.5}, "neighbor_exponent must be a number from 0 to 1, not 1.5"),
        ({"residual": -0.5}, "residual must be a number from 0 to 1"),
        ({"residual": math.nan}, "residual must be a number from 0 to 1"),
        ({"norm": "layer"}, "norm is 'layer', which is no choice. Valid: none, rms"),
        ({"n_layers": 0}, "n_layers must be a whole number of at least 1, not 0"),
        ({"n_layers": 10**30}, "n_layers must be at most 10000"),
        ({"l_max": 12}, "l_max must be at most 11, not 12"),
        ({"hidden_irreps": "8x0e+8x12e"}, "beyond 11, the last whose.*use '8x0e'$"),
        ({"n_layers": 2.5}, "n_layers must be a whole number"),
        ({"l_max": -1}, "l_max must be a whole number of at least 0"),
        ({"n_bessel": 0}, "n_bessel must be"),
        ({"envelope_p": 1}, "envelope_p must be a whole number of at least 2"),
        ({"self_connection_rank": -1}, "self_connection_rank must be"),
        ({"radial_hidden": (8, 0)}, "radial_hidden must be positive sizes"),
        ({"elements": (6, 1)}, r"use \(1, 6\)"),
        ({"parity": False}, "odd irreps.*use '4x0e\\+3x1e\\+2x2e'$"),
        ({"parity": 1}, "parity must be true or false"),
        ({"trainable_bessel": "yes"}, "trainable_bessel must be true or false"),
        ({"first_self_connection": None}, "first_self_connection must be true or false"),
        ({"switch_start": 4.0}, "switch_start must be a number from 0 to 3.5"),
        ({"switch_start": -1.0}, "switch_start must be a number from 0 to 3.5"),
        ({"switch_start": 3.5}, "switch_start is the cutoff.*such as 3.15, or 0 for"),
        ({"norm_epsilon": 0.0}, "norm_epsilon must be a positive number"),
        ({"embedding_channels": -1}, "embedding_channels must be"),
        ({"embedding_channels": 5, "residual": 0.5}, "use embedding_channels = 0$"),
        ({"self_connection": "element"}, "self_connection is 'element'.*Did you mean 'elements'"),
        (
            {"self_connection": "linear", "self_connection_rank": 2},
            "is of self_connection 'elements', not of 'linear'; use self_connection_rank = 0$",
        ),
        ({"readout_hidden": (0,)}, "readout_hidden must be positive sizes"),
    ],
)
def test_settings_refused(changes: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        config(**changes)


def test_layers_keep_what_can_reach_the_energy() -> None:
    layers = config("8x0e+1x0o+4x1o+3x1e+2x2e", n_layers=6, l_max=2).layer_irreps()
    irreps = [{str(ir) for _, ir in layer} for layer in layers]
    assert irreps[0] == {"0e", "1o", "2e"}  # from scalars, natural parity only
    assert irreps[1] == {"0e", "1o", "1e", "2e"}
    assert irreps[2] == {"0e", "0o", "1o", "1e", "2e"}  # 0o out of 1e, and back again
    assert irreps[3] == {"0e", "1o", "1e", "2e"}
    assert irreps[4] == {"0e", "1o", "2e"}  # what couples with Y_l to 0e
    assert irreps[5] == {"0e"}
    assert {ir.l: mul for mul, ir in layers[0]} == {0: 8, 1: 4, 2: 2}


def test_terms_of_one_irrep_are_joined() -> None:
    assert config("2x0e+1x1o+3x0e+2x1o").layer_irreps() == config("5x0e+3x1o").layer_irreps()


@pytest.mark.parametrize(("avg_neighbors", "exponent"), [(4.0, 0.5), (2.0, 1.0)])
def test_avg_neighbors_divides_the_messages(avg_neighbors: float, exponent: float) -> None:
    graph = crystal()
    one = model_of(config(avg_neighbors=1.0))
    four = model_of(config(avg_neighbors=avg_neighbors, neighbor_exponent=exponent))
    expected = one(graph, graph.edge_vectors())
    assert not torch.allclose(four(graph, graph.edge_vectors()), expected, atol=1e-4)
    with torch.no_grad():
        for name, parameter in four.named_parameters():
            if "linear_out" in name:
                parameter.mul_(2.0)
    assert torch.allclose(four(graph, graph.edge_vectors()), expected, rtol=0, atol=1e-12)


def test_rank_of_the_self_connection() -> None:
    settings: dict = {"elements": tuple(range(1, 90)), "hidden_irreps": "8x0e+4x1o", "l_max": 1}
    full, low = model_of(config(**settings)), model_of(config(**settings, self_connection_rank=3))
    for ours, theirs in zip(full.layers, low.layers, strict=True):
        for all_elements, few in zip(
            ours.self_connection.linear.weights,  # type: ignore[union-attr, arg-type]
            theirs.self_connection.linear.weights,  # type: ignore[union-attr, arg-type]
            strict=True,
        ):
            assert all_elements.shape[0] == 89
            assert few.shape == (3, *all_elements.shape[1:])
    # Elements remain different from each other.
    lone = to_graph(Atoms("HHe", [(0, 0, 0), (30, 0, 0)]), CUTOFF)
    hydrogen, helium = low(lone, lone.edge_vectors()).tolist()
    assert abs(hydrogen - helium) > 1e-4


def test_a_lone_atom_and_the_second_derivative_with_norm_and_residual() -> None:
    model = model_of(config(**UNIVERSAL))
    lone = to_graph(Atoms("CC", [(0, 0, 0), (30, 0, 0)]), CUTOFF)
    assert lone.n_edges == 0
    energies = model(lone, lone.edge_vectors())
    assert energies.isfinite().all()
    assert energies[0] == energies[1]
    pair = to_graph(Atoms("CS", [(0, 0, 0), (1.0, 1.2, 0.4)]), CUTOFF)

    def energy(edge_vec: Tensor) -> Tensor:
        return model(pair, edge_vec)

    edge_vec = pair.edge_vectors().requires_grad_(True)
    assert torch.autograd.gradcheck(energy, edge_vec)
    assert torch.autograd.gradgradcheck(energy, edge_vec)


def test_a_switch_ends_with_value_and_slope() -> None:
    # Bessel functions that are learnt are not zero at the cutoff themselves.
    model = model_of(config(switch_start=2.8, trainable_bessel=True))
    with torch.no_grad():
        model.basis.bessel.orders.add_(0.3)

    def energy(distance: float) -> float:
        graph = to_graph(Atoms("CS", [(0, 0, 0), (0, 0, distance)]), CUTOFF + 0.1)
        with torch.no_grad():
            return float(model(graph, graph.edge_vectors()).sum())

    for end in (2.8, CUTOFF):
        slopes = [(energy(end + h) - energy(end)) / h for h in (-1e-4, 1e-4)]
        assert slopes[0] == pytest.approx(slopes[1], abs=1e-3)
    beyond = energy(CUTOFF + 0.05)
    assert energy(CUTOFF) == beyond
    near, far = (abs(energy(CUTOFF - h) - beyond) for h in (0.005, 0.01))
    assert far / near == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("others", [{}, UNIVERSAL])
def test_fades_out_at_the_cutoff_with_two_derivatives(others: dict) -> None:
    model = model_of(config(**others))

    def energy(distance: float) -> float:
        graph = to_graph(Atoms("CS", [(0, 0, 0), (0, 0, distance)]), CUTOFF + 0.1)
        with torch.no_grad():
            return float(model(graph, graph.edge_vectors()).sum())

    beyond = energy(CUTOFF + 0.05)
    near, far = (abs(energy(CUTOFF - h) - beyond) for h in (0.005, 0.01))
    assert energy(CUTOFF) == beyond
    # A third derivative that jumps would give 8; Bessel functions are zero there as well.
    assert far / near == pytest.approx(16.0, rel=0.1)


def test_without_parity_mirror_images_differ() -> None:
    graph, mirror = crystal(), torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    for small, same in ((config(), True), (config("4x0e+3x1e+2x2e", parity=False), False)):
        model = model_of(small)
        energy = model(graph, graph.edge_vectors())
        mirrored = model(graph, graph.edge_vectors() * mirror)
        assert torch.allclose(mirrored, energy, rtol=0, atol=1e-10) == same


def test_without_first_self_connection_lone_atoms_have_no_energy() -> None:
    lone = to_graph(Atoms("HS", [(0, 0, 0), (30, 0, 0)]), CUTOFF)
    for others in ({}, {"norm": "rms"}, {"self_connection": "embedding"}):
        model = model_of(config(first_self_connection=False, **others))
        assert (model(lone, lone.edge_vectors()) == 0.0).all()
        model = model_of(config(**others))
        assert (model(lone, lone.edge_vectors()) != 0.0).all()


def test_an_unknown_element_is_an_error() -> None:
    model = model_of(config())
    graph = to_graph(Atoms("O"), CUTOFF)
    with pytest.raises((IndexError, RuntimeError), match="index"):
        model(graph, graph.edge_vectors())


@pytest.mark.parametrize("name", ["parity", "natural"])
def test_equals_the_package_nequip(name: str) -> None:
    peer = reference.read(f"nequip-{name}")
    shifts = [peer.settings["per_type_energy_shifts"][s] for s in peer.settings["type_names"]]
    shift = dict(zip(reference.ELEMENTS, shifts, strict=True))
    model = peer_model(peer)
    reference.compare(model, peer, peer.settings["per_type_energy_scales"], shift)
