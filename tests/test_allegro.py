"""Allegro against nequip-allegro, and what makes it itself: it is strictly local."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from e3nn import o3
from scipy.spatial.transform import Rotation
from torch import Tensor

from mlff2d.atoms import to_graph
from mlff2d.models import build_model
from mlff2d.models.allegro import Allegro, AllegroConfig
from mlff2d.nn.mlp import SILU_GAIN
from mlff2d.nn.pair_tensor import SurroundingsProduct, tensor_track
from mlff2d.nn.scatter import places
from tests.irreps import exact
from tests.parity import reference

VARIANTS = ("l1", "l2", "l2-three-layers", "l2-no-parity")
PEER_GAIN = math.sqrt(2.0)
"""What nequip multiplies the weights after a nonlinearity with; ours multiplies the SiLU."""


def translated(settings: dict) -> dict:
    """Our settings from nequip-allegro's."""

    def hidden(network: str) -> tuple[int, ...]:
        depth = settings[f"{network}_mlp_hidden_layers_depth"]
        return (settings[f"{network}_mlp_hidden_layers_width"],) * depth

    return {
        "elements": reference.ELEMENTS,
        "cutoff": settings["r_max"],
        "l_max": settings["l_max"],
        "parity": settings["parity"],
        "n_layers": settings["num_layers"],
        "scalar_channels": settings["num_scalar_features"],
        "tensor_channels": settings["num_tensor_features"],
        "n_bessel": settings["radial_chemical_embed"]["num_bessels"],
        "envelope_p": settings["radial_chemical_embed"]["polynomial_cutoff_p"],
        "embed_hidden": hidden("scalar_embed"),
        "layer_hidden": hidden("allegro"),
        "readout_hidden": hidden("readout"),
        "avg_neighbors": settings["avg_num_neighbors"],
    }


def renamed(weights: dict[str, np.ndarray], config: AllegroConfig) -> dict[str, Tensor]:
    """Our state dict from nequip-allegro's."""
    values = {key.removeprefix("model.func."): torch.tensor(v) for key, v in weights.items()}
    state: dict[str, Tensor] = {}

    def linear(ours: str, theirs: str, scale: float = 1.0) -> None:
        state[f"{ours}.weight"] = scale * values.pop(f"{theirs}.weight").T

    def mlp(ours: str, theirs: str, n_layers: int) -> None:
        for k in range(n_layers):
            scale = PEER_GAIN / SILU_GAIN if k else 1.0
            linear(f"{ours}.layers.{k}", f"{theirs}.mlp.{2 * k}", scale)

    typed = "radial_chemical_embed.type_embed"
    state["receiver_embedding"] = values.pop(f"{typed}.center_embed.weight")
    state["neighbour_embedding"] = values.pop(f"{typed}.neighbor_embed.weight")
    linear("radial", f"{typed}.basis_linear.mlp.0")
    mlp("embed", "scalar_embed_mlp.mlp_module", len(config.embed_hidden) + 1)
    linear("first_tensor", "tensor_embed.env_embed_linear.mlp.0")
    linear("first_scalars", "allegro.first_layer_env_embed_projection.mlp.0")
    for k in range(config.n_layers):
        state[f"products.{k}.weight"] = values.pop(f"allegro.tps.{k}.weights")
        mlp(f"layers.{k}", f"allegro.latents.{k}", len(config.layer_hidden) + 1)
    n_hidden = len(config.readout_hidden)
    mlp("edge_readout", "edge_readout.mlp_module", n_hidden)
    last = PEER_GAIN / SILU_GAIN if n_hidden else 1.0
    linear("readout", f"edge_readout.mlp_module.mlp.{2 * n_hidden}", last)
    assert not values, f"not mapped: {list(values)}"
    return state


@pytest.mark.parametrize("variant", VARIANTS)
def test_parity_with_nequip_allegro(variant: str) -> None:
    stored = reference.read(f"nequip-allegro-{variant}")
    model = build_model("allegro", translated(stored.settings)).double()
    model.load_state_dict(renamed(stored.weights, model.config), strict=True)
    reference.compare(model, stored)


def random_model(**settings: object) -> Allegro:
    torch.manual_seed(2)
    small: dict = {"scalar_channels": 8, "tensor_channels": 4, "cutoff": 4.0}
    return Allegro(AllegroConfig((1, 6, 16), **{**small, **settings})).double()


def felt(model: Allegro, atoms: Atoms, atom: int) -> Tensor:
    """(N,) length of the gradient of one atom's energy by the positions of all."""
    graph = to_graph(atoms, model.cutoff)
    graph.pos.requires_grad_(True)
    energy = model(graph, graph.edge_vectors())[atom]
    (gradient,) = torch.autograd.grad(energy, graph.pos)
    return gradient.norm(dim=1)


@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_nothing_beyond_the_cutoff_is_felt_whatever_the_layers(n_layers: int) -> None:
    # A zigzag chain: two neighbours on either side are within the cutoff of 4 Å.
    positions = [(1.6 * k, 0.3 * (-1) ** k, 0.1 * k * k % 0.4) for k in range(12)]
    atoms = Atoms("CSHCSHCSHCSH", positions)
    distances = torch.from_numpy(atoms.get_all_distances()[0])
    gradient = felt(random_model(n_layers=n_layers), atoms, 0)
    assert (gradient[distances >= 4.0] == 0.0).all()
    assert (gradient[distances < 4.0] > 1e-7).all()


def test_angles_are_felt_only_with_tensors() -> None:
    def energies(model: Allegro, angle: float) -> Tensor:
        third = (1.5 * math.cos(angle), 1.5 * math.sin(angle), 0.0)
        graph = to_graph(Atoms("CSH", [(0, 0, 0), (1.4, 0, 0), third]), 1.9)
        assert graph.n_edges == 4, "the outer atoms are no neighbours"
        return model(graph, graph.edge_vectors()).detach()

    for l_max, feels in ((0, False), (1, True), (2, True)):
        model = random_model(l_max=l_max)
        difference = (energies(model, 1.6) - energies(model, 2.6)).abs()
        assert (difference[0] > 1e-6) == feels
        assert (difference[1:] < 1e-12).all(), "only the middle atom has two neighbours"


@pytest.mark.parametrize(
    ("l_max", "parity", "n_layers", "expected"),
    [
        (0, True, 3, ["0e", "0e", "0e", "0e"]),
        (2, True, 1, ["0e+1o+2e", "0e"]),
        (2, True, 2, ["0e+1o+2e", "0e+1o+2e", "0e"]),
        (1, True, 3, ["0e+1o", "0e+1e+1o", "0e+1o", "0e"]),
        (2, True, 3, ["0e+1o+2e", "0e+1e+1o+2e+2o", "0e+1o+2e", "0e"]),
        (2, False, 3, ["0e+1o+2e", "0e+1o+2e", "0e+1o+2e", "0e"]),
        (
            1,
            True,
            5,
            ["0e+1o", "0e+1e+1o", "0e+0o+1e+1o", "0e+1e+1o", "0e+1o", "0e"],
        ),
    ],
)
def test_tensor_track(l_max: int, parity: bool, n_layers: int, expected: list[str]) -> None:
    assert tensor_track(l_max, parity, n_layers) == [o3.Irreps(text) for text in expected]


@pytest.mark.parametrize(
    ("atoms", "n_places"), [([0, 0, 1, 3, 1], 0), ([0, 0, 1, 1, 2, 2], 2), ([0, 1, 1, 2, 2], 2)]
)
def test_product_against_the_sum_over_paths(atoms: list[int], n_places: int) -> None:
    torch.manual_seed(0)
    n_atoms, n_edges = max(atoms) + 1, len(atoms)
    irreps_in, irreps_atom, irreps_out = map(o3.Irreps, ("0e+1e+1o+2o", "0e+1o+2e", "0e+0o+1o+2e"))
    product = SurroundingsProduct(irreps_in, irreps_atom, irreps_out, 3).double()
    receiver = torch.tensor(atoms)
    found, place = places(receiver, n_atoms)
    assert found == n_places
    x = torch.randn(n_edges, 3, irreps_in.dim, dtype=torch.float64)
    y = torch.randn(n_atoms, 3, irreps_atom.dim, dtype=torch.float64)
    expected = torch.zeros(n_edges, 3, irreps_out.dim, dtype=torch.float64)
    path = 0
    for c, (_, out) in enumerate(irreps_out):
        for a, (_, first) in enumerate(irreps_in):
            for b, (_, second) in enumerate(irreps_atom):
                if out not in first * second:
                    continue
                symbol = o3.wigner_3j(first.l, second.l, out.l, dtype=torch.float64)
                part = torch.einsum(
                    "eci,ecj,ijk,c->eck",
                    x[..., irreps_in.slices()[a]],
                    y[receiver][..., irreps_atom.slices()[b]],
                    symbol,
                    product.weight[:, path],
                )
                expected[..., irreps_out.slices()[c]] += math.sqrt(out.dim) * part.detach()
                path += 1
    assert product.weight.shape == (3, path)
    assert torch.allclose(product(x, y, receiver, n_places, place), expected, atol=1e-12)
    turn = torch.from_numpy(-Rotation.random(rng=1).as_matrix())
    with exact():
        rotations = [part.D_from_matrix(turn) for part in (irreps_in, irreps_atom, irreps_out)]
    turned = product(x @ rotations[0].T, y @ rotations[1].T, receiver, n_places, place)
    assert torch.allclose(turned, expected @ rotations[2].T, atol=1e-12)


def test_parity_matters_from_three_layers_on() -> None:
    def n_parameters(**settings: object) -> int:
        return sum(p.numel() for p in random_model(**settings).parameters())

    for n_layers, differs in ((1, False), (2, False), (3, True)):
        counts = [n_parameters(n_layers=n_layers, parity=parity) for parity in (True, False)]
        assert (counts[0] > counts[1]) == differs


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"cutoff": 0.0}, "cutoff must be a positive number in Å, such as 6"),
        ({"cutoff": math.inf}, "cutoff"),
        ({"n_layers": 0}, "n_layers must be a whole number of at least 1"),
        ({"l_max": 12}, "l_max must be at most 11"),
        ({"l_max": -1}, "l_max must be a whole number of at least 0"),
        ({"l_max": 1.5}, "l_max"),
        ({"parity": 1}, "parity must be true or false"),
        ({"scalar_channels": 0}, "scalar_channels"),
        ({"scalar_channels": 7}, "scalar_channels .7. must be even.*use 8"),
        ({"tensor_channels": 0}, "tensor_channels"),
        ({"n_bessel": 0}, "n_bessel"),
        ({"envelope_p": 1}, "envelope_p must be a whole number of at least 2"),
        ({"embed_hidden": (0,)}, "embed_hidden"),
        ({"layer_hidden": 64}, "layer_hidden must be positive sizes"),
        ({"readout_hidden": "32"}, "readout_hidden"),
        ({"avg_neighbors": 0.0}, "avg_neighbors must be a positive number such as 20"),
    ],
)
def test_bad_settings_are_refused(settings: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AllegroConfig(**settings)
