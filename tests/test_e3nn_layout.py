"""Weights in e3nn's layout, turned into ours, against e3nn's modules."""

import pytest
import torch
from e3nn import o3
from e3nn.nn import Gate
from torch import Tensor

from mlff2d.importers import e3nn_layout
from mlff2d.models.nequip import InteractionLayer, NequIP, NequIPConfig
from mlff2d.nn.mlp import MLP
from tests.irreps import exact

# Terms that repeat, and that only one side has.
IRREPS_IN = o3.Irreps("2x0e+3x1o+1x0e+2x1e+1x1o+2x2e")
IRREPS_OUT = o3.Irreps("3x0e+2x1o+2x0e+4x1e+1x3o+2x1o")


def channels(x: Tensor, irreps: o3.Irreps, ir: o3.Irrep) -> Tensor:
    """(N, 2l+1, C) of all terms of an irrep."""
    parts = [
        x[:, place].view(-1, mul, ir.dim)
        for place, (mul, other) in zip(irreps.slices(), irreps, strict=True)
        if other == ir
    ]
    return torch.cat(parts, dim=1).transpose(1, 2)


def test_linear() -> None:
    with exact():
        theirs = o3.Linear(IRREPS_IN, IRREPS_OUT)
    matrices = e3nn_layout.linear_matrices(theirs.weight.detach(), IRREPS_IN, IRREPS_OUT)
    assert {str(ir) for ir in matrices} == {"0e", "1o", "1e"}
    x = torch.randn(4, IRREPS_IN.dim, dtype=torch.float64)
    y = theirs(x)
    for ir, matrix in matrices.items():
        found = channels(x, IRREPS_IN, ir) @ matrix
        assert torch.allclose(found, channels(y, IRREPS_OUT, ir), atol=1e-12)
    with pytest.raises(ValueError, match="weights are given where"):
        e3nn_layout.linear_matrices(theirs.weight[1:], IRREPS_IN, IRREPS_OUT)


def test_fully_connected_product() -> None:
    with exact():
        theirs = o3.FullyConnectedTensorProduct(IRREPS_IN, "3x0e", IRREPS_OUT)
    weight = theirs.weight.detach()
    matrices = e3nn_layout.attribute_matrices(weight, IRREPS_IN, 3, IRREPS_OUT)
    x = torch.randn(4, IRREPS_IN.dim, dtype=torch.float64)
    a = torch.randn(4, 3, dtype=torch.float64)
    y = theirs(x, a)
    for ir, matrix in matrices.items():
        found = torch.einsum("nk,nmc,kcd->nmd", a, channels(x, IRREPS_IN, ir), matrix)
        assert torch.allclose(found, channels(y, IRREPS_OUT, ir), atol=1e-12)


@pytest.mark.parametrize("text", ["3x0e+2x1o+4x2e", "3x0e+2x0o+2x1e+4x1o+1x2e+1x2o", "5x0e"])
def test_what_goes_into_a_gate(text: str) -> None:
    irreps = o3.Irreps(text)
    scalars = o3.Irreps([(mul, ir) for mul, ir in irreps if ir.l == 0])
    gated = o3.Irreps([(mul, ir) for mul, ir in irreps if ir.l > 0])
    functions = [torch.tanh if ir.p < 0 else torch.nn.functional.silu for _, ir in scalars]
    gates = o3.Irreps([(mul, "0e") for mul, _ in gated])
    theirs = Gate(scalars, functions, gates, [torch.nn.functional.silu] * len(gates), gated)
    assert e3nn_layout.gate_irreps(irreps) == theirs.irreps_in


def test_order_of_paths() -> None:
    irreps = o3.Irreps("4x0e+2x1o")
    wanted = [o3.Irrep("0e"), o3.Irrep("1o")]
    paths = e3nn_layout.message_paths(irreps, 1, wanted)
    found = [(str(ir), degree, str(out), mul) for ir, degree, out, mul in paths]
    assert found == [
        ("0e", 0, "0e", 4),
        ("0e", 1, "1o", 4),
        ("1o", 0, "1o", 2),
        ("1o", 1, "0e", 2),
    ]
    by_output = e3nn_layout.message_paths(irreps, 1, wanted, by_output=True)
    assert by_output == [paths[k] for k in (0, 3, 1, 2)]
    even = e3nn_layout.message_paths(o3.Irreps("2x1e"), 1, [o3.Irrep("1e")], parity=False)
    assert [path[1] for path in even] == [0, 1]


def test_mlp_with_plain_activations() -> None:
    torch.manual_seed(0)
    mlp = MLP((3, 5, 4, 2)).double()
    matrices = [torch.randn(shape, dtype=torch.float64) for shape in ((3, 5), (5, 4), (4, 2))]
    e3nn_layout.fill_mlp(mlp, matrices)
    x = torch.randn(6, 3, dtype=torch.float64)
    silu = torch.nn.functional.silu
    expected = silu(silu(x @ matrices[0]) @ matrices[1]) @ matrices[2]
    assert torch.allclose(mlp(x), expected, atol=1e-12)
    with pytest.raises(ValueError, match="2 layers are given where the model has 3"):
        e3nn_layout.fill_mlp(mlp, matrices[1:])
    with pytest.raises(ValueError, match="do not fit"):
        e3nn_layout.fill_mlp(mlp, matrices[::-1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"first_self_connection": False}, "only one of the two models has a self-connection"),
        ({"norm": "rms"}, "only one of the two models has a norm"),
        ({"hidden_irreps": "5x0e+3x1o"}, "channels where the model has"),
        ({"l_max": 2, "hidden_irreps": "4x0e+3x1o+1x2e"}, "has 0 channels where the model has 4"),
    ],
)
def test_layers_that_differ_are_refused(changes: dict, reason: str) -> None:
    settings: dict = {"elements": (1, 6), "hidden_irreps": "4x0e+3x1o", "l_max": 1}
    settings |= {"self_connection": "linear", "n_layers": 2, "radial_hidden": (), "n_bessel": 3}
    given = {"embedding_channels": 4}
    layer = NequIP(NequIPConfig(**{**settings, **given, **changes})).double().layers[0]
    assert isinstance(layer, InteractionLayer)
    irreps_in, irreps_out = o3.Irreps("4x0e"), o3.Irreps("4x0e+3x1o")
    gate = e3nn_layout.gate_irreps(irreps_out)
    paths = e3nn_layout.message_paths(irreps_in, 1, [ir for _, ir in irreps_out])
    with exact():
        linear_in = o3.Linear(irreps_in, irreps_in).weight.detach()
        linear_out = o3.Linear(o3.Irreps("4x0e+4x1o"), gate).weight.detach()
        connection = o3.Linear(irreps_in, gate).weight.detach()
    theirs = e3nn_layout.InteractionWeights(
        irreps_in, irreps_out, paths, linear_in, linear_out, [torch.randn(3, 8)], connection, 0, 1.0
    )
    with pytest.raises(ValueError, match=reason):
        e3nn_layout.fill_interaction(layer, theirs, {})
