"""MACE against mace-torch, and its symmetric products against their definition."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from e3nn import o3

from mlff2d.atoms import to_graph
from mlff2d.graph import Graph, collate
from mlff2d.importers.mace import BLOCKS
from mlff2d.importers.mace_weights import our_weights
from mlff2d.models import build_model
from mlff2d.models.mace import MACE, MACEConfig
from mlff2d.nn import scatter
from mlff2d.nn.equivariant import SphericalHarmonics
from mlff2d.nn.mlp import MLP
from mlff2d.nn.neighbour_sum import NeighbourSum, arrange
from mlff2d.nn.pairs import AgnesiTransform, PairRepulsion
from mlff2d.nn.radial import PolynomialEnvelope
from mlff2d.nn.scatter import segment_sum
from tests.parity import reference
from tests.structures import mos2

VARIANTS = (
    "scalars",
    "vectors",
    "tensors",
    "pairs-only",
    "four",
    "one-layer",
    "plain",
    "density",
    "density-residual",
    "two-heads",
)


CANCELLING = ("scalars", "vectors", "plain")
"""Here great terms of opposite sign make small sums: float32 is 1.1e-5 to 5e-5 away from float64,
for forces up to 12,000 eV/Å beside energies of 100 eV."""


def translated(theirs: dict[str, Any]) -> dict[str, Any]:
    """Our settings for those of mace-torch."""
    return {
        "elements": reference.ELEMENTS,
        "cutoff": theirs["r_max"],
        "n_layers": theirs["num_interactions"],
        "hidden_irreps": theirs["hidden_irreps"],
        "l_max": theirs["max_ell"],
        "correlation": theirs["correlation"],
        "n_bessel": theirs["num_bessel"],
        "radial_hidden": theirs["radial_MLP"],
        "envelope_p": theirs["num_polynomial_cutoff"],
        "readout_hidden": int(theirs["MLP_irreps"].removesuffix("x0e")),
        "avg_neighbors": theirs["avg_num_neighbors"],
        "first_interaction": BLOCKS[theirs["interaction_cls_first"]],
        "interaction": BLOCKS[theirs["interaction_cls"]],
        "distance_transform": theirs["distance_transform"].lower(),
        "pair_repulsion": theirs["pair_repulsion"],
    }


def of_mace_torch(
    variant: str,
) -> tuple[MACE, reference.Reference, float, dict[int, float]]:
    """Ours with the reference's weights, what it gives, its scale and energies of elements."""
    ref = reference.read(f"mace-{variant}")
    model = build_model("mace", translated(ref.settings)).double()
    assert isinstance(model, MACE)
    theirs = {name: torch.from_numpy(np.asarray(value)) for name, value in ref.weights.items()}
    n_heads = len(ref.settings["heads"])
    weights = our_weights(model, theirs, head=n_heads - 1, n_heads=n_heads)
    model.load_state_dict(weights, strict=True)
    scale = shift = 0.0
    if ref.settings["model"] == "MACE":
        scale = 1.0
    else:
        scale, shift = [
            float(np.atleast_1d(ref.weights[f"scale_shift.{name}"])[-1])
            for name in ("scale", "shift")
        ]
    energies = ref.weights["atomic_energies_fn.atomic_energies"][-1] + shift
    references = dict(zip(reference.ELEMENTS, energies.tolist(), strict=True))
    return model, ref, scale, references


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_weights_same_energies_as_mace_torch(variant: str) -> None:
    model, ref, scale, references = of_mace_torch(variant)
    reference.compare(
        model, ref, scale=scale, shift=references, in_float32=variant not in CANCELLING
    )


@pytest.mark.parametrize("variant", ["scalars", "vectors", "tensors", "four", "density"])
def test_highest_products_matter_in_the_reference(variant: str) -> None:
    # Or the comparison above would say nothing of them.
    ref = reference.read(f"mace-{variant}")
    model = MACE(MACEConfig(**translated(ref.settings))).double()
    theirs = {name: torch.from_numpy(np.asarray(value)) for name, value in ref.weights.items()}
    model.load_state_dict(our_weights(model, theirs))
    graph = to_graph(ref.structures[2], model.cutoff)
    with torch.no_grad():
        before = float(model(graph, graph.edge_vectors()).sum())
        model.layers[0].contraction.weights[0][:, -1] = 0.0
        after = float(model(graph, graph.edge_vectors()).sum())
    assert abs(after - before) > 1e-4 * abs(before)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"correlation": 9}, r"correlation = 9.*not fit in memory; use 6"),
        ({"correlation": 7, "hidden_irreps": "8x0e+8x1o"}, r"correlation = 7.*use 5"),
        ({"correlation": 10**6, "l_max": 0}, "correlation must be at most 12"),
        ({"correlation": 0}, "correlation"),
        ({"hidden_irreps": "8x0e+8x0o"}, r"0o.*use '8x0e'"),
        ({"hidden_irreps": "8x0e+8x1o", "l_max": 0}, r"8x1o.*use '8x0e'"),
        ({"hidden_irreps": "8x0e+8x1o", "n_layers": 1}, r"8x1o.*use '8x0e'"),
        ({"hidden_irreps": "8x0e+8x3o", "l_max": 1}, r"8x3o.*use '8x0e'"),
        ({"hidden_irreps": "8x0e+8x2e", "l_max": 2, "correlation": 1, "n_layers": 1}, "8x2e"),
        ({"hidden_irreps": "8x0e+4x1o"}, r"same number.*use '8x0e\+8x1o'"),
        ({"hidden_irreps": "8x1o"}, "no 0e"),
        ({"hidden_irreps": "1000000x0e"}, "more than 10000 channels.*use '10000x0e'"),
        ({"hidden_irreps": ["8x0e"]}, "must be a sum of irreps such as"),
        ({"hidden_irreps": "8x0e+nonsense"}, "use '8x0e'"),
        ({"l_max": -1}, "l_max"),
        ({"l_max": 12}, "l_max must be at most 6"),
        ({"interaction": "residul"}, "'residual'"),
        ({"first_interaction": "dense"}, "first_interaction"),
        ({"distance_transform": "Agnes"}, "'agnesi'"),
        ({"pair_repulsion": 1}, "pair_repulsion"),
        ({"radial_hidden": ()[:0] or (0,)}, "radial_hidden"),
        ({"readout_hidden": 0}, "readout_hidden"),
        ({"avg_neighbors": 0.0}, "avg_neighbors"),
        ({"envelope_p": 1}, "envelope_p"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        MACEConfig(**settings)


@pytest.mark.parametrize("correlation", range(1, 7))
def test_orders_that_are_offered_fit(correlation: int) -> None:
    assert MACEConfig(correlation=correlation, hidden_irreps="8x0e").correlation == correlation


def test_lists_as_a_file_has_them_become_tuples() -> None:
    config = MACEConfig(elements=[6, 16], radial_hidden=[8, 8])  # type: ignore[arg-type]
    assert config.elements == (6, 16)
    assert config.radial_hidden == (8, 8)


@pytest.mark.parametrize(
    ("first", "other"),
    list(product(["plain", "residual", "density", "density_residual"], repeat=2)),
)
def test_every_parameter_counts_in_every_kind_of_layer(first: str, other: str) -> None:
    torch.manual_seed(0)
    config = MACEConfig(
        (16, 42),
        4.5,
        hidden_irreps="3x0e+3x1o+3x2o",
        l_max=2,
        first_interaction=first,
        interaction=other,
        distance_transform="agnesi",
        pair_repulsion=True,
        radial_hidden=(5,),
    )
    model = MACE(config).double()
    graph = to_graph(mos2(), model.cutoff)
    model(graph, graph.edge_vectors()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


def uneven() -> Graph:
    """Atoms with 0 to 4 neighbours, in two structures."""
    atoms = Atoms("CHHHHS", positions=[(0, 0, 0), *(1.1 * np.eye(3)), (-1, 0, 0), (20, 0, 0)])
    return collate([to_graph(atoms, 1.3), to_graph(mos2(), 4.0)])


@pytest.mark.parametrize("empty", [0.0, 100.0])
def test_sums_over_places_are_sums_over_edges(
    monkeypatch: pytest.MonkeyPatch, empty: float
) -> None:
    monkeypatch.setattr(scatter, "MAX_EMPTY", empty)
    torch.manual_seed(0)
    graph = uneven()
    irreps = o3.Irreps("3x0e+2x1o+2x2e")
    product = NeighbourSum(irreps, 2, {ir for _, ir in o3.Irreps("0e+1o+1e+2e+3o")}).double()
    network = MLP((4, 6, product.n_weights)).double()
    x = [torch.randn(graph.n_atoms, ir.dim, mul, dtype=torch.float64) for mul, ir in irreps]
    harmonics = SphericalHarmonics(2)(torch.nn.functional.normalize(graph.edge_vectors()))
    radial = torch.randn(graph.n_edges, 4, dtype=torch.float64)
    neighbours = arrange(graph.edge_index, harmonics, radial, graph.n_atoms)
    assert (neighbours.n_places > 0) == (empty > 0.0)
    found = product.summed(x, network, neighbours)
    expected = product(x, harmonics, network(radial), graph.edge_index)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    counted = neighbours.sum(neighbours.radial, graph.n_atoms)
    assert torch.allclose(counted, segment_sum(radial, graph.edge_index[0], graph.n_atoms))


def test_places_without_edges() -> None:
    empty = torch.zeros(2, 0, dtype=torch.int64)
    neighbours = arrange(empty, torch.zeros(0, 4), torch.zeros(0, 3), 2)
    assert neighbours.n_places == 0
    assert torch.equal(neighbours.sum(neighbours.radial, 2), torch.zeros(2, 3))


@pytest.mark.parametrize("interaction", ["residual", "density_residual"])
@pytest.mark.parametrize("transform", ["none", "agnesi"])
def test_fresh_energies_and_slopes_are_moderate(interaction: str, transform: str) -> None:
    torch.manual_seed(0)
    config = MACEConfig(
        hidden_irreps="32x0e+32x1o",
        first_interaction=interaction,
        interaction=interaction,
        distance_transform=transform,
    )
    model = MACE(config)
    graph = to_graph(mos2(), model.cutoff).to(dtype=torch.float32)
    edge_vec = graph.edge_vectors().requires_grad_(True)
    energies = model(graph, edge_vec)
    (slopes,) = torch.autograd.grad(energies.sum(), edge_vec)
    assert 1e-4 < energies.abs().max() < 2.0
    assert 1e-4 < slopes.abs().max() < 2.0


def test_agnesi_transform_and_repulsion_by_hand() -> None:
    radii = [0.2, 0.3, 1.1]
    r = torch.tensor([0.5, 1.3, 1.5], dtype=torch.float64)
    z_i, z_j = torch.tensor([1, 1, 1]), torch.tensor([2, 2, 1])
    s = r / torch.tensor([0.7, 0.7, 0.3])
    expected = 1 / (1 + 1.0805 * s**0.9183 / (1 + s ** (0.9183 - 4.5791)))
    assert torch.allclose(AgnesiTransform(radii)(r, z_i, z_j), expected, atol=1e-12)
    found = PairRepulsion(radii, PolynomialEnvelope(6))(r, z_i, z_j)
    assert found[1] > 0.0
    assert found[2] == 0.0  # beyond both radii
    x = 0.5 * (1 + 2**0.3) / (0.4543 * 0.529)
    screening = 0.1818 * math.exp(-3.2 * x) + 0.5099 * math.exp(-0.9423 * x)
    screening += 0.2802 * math.exp(-0.4028 * x) + 0.02817 * math.exp(-0.2016 * x)
    t = 0.5 / 1.4
    envelope = 1 - 28 * t**6 + 48 * t**7 - 21 * t**8
    assert float(found[0]) == pytest.approx(0.5 * 14.3996 * 2 / 0.5 * screening * envelope)


def test_repulsion_is_added_to_the_energies() -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"elements": (16, 42), "hidden_irreps": "4x0e", "l_max": 1}
    model = MACE(MACEConfig(**settings)).double()
    repelling = MACE(MACEConfig(**settings, pair_repulsion=True)).double()
    repelling.load_state_dict(model.state_dict())
    atoms = mos2()
    atoms.positions[1] = atoms.positions[0] + (0.0, 0.3, 1.0)
    graph = to_graph(atoms, model.cutoff)
    with torch.no_grad():
        extra = repelling(graph, graph.edge_vectors()) - model(graph, graph.edge_vectors())
    assert (extra[:2] > 1.0).all()
    assert (extra[2:].abs() < 1.0).all()
