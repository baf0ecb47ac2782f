"""The blocks that models share, against their definitions and against e3nn."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from e3nn import o3
from e3nn.math import normalize2mom
from e3nn.nn import Gate as E3nnGate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlff2d.nn.constant import Constant
from mlff2d.nn.elements import ElementIndex, check_elements
from mlff2d.nn.equivariant import (
    AttributeLinear,
    ElementLinear,
    Gate,
    IrrepsLinear,
    RMSNorm,
    SphericalHarmonics,
    alike,
)
from mlff2d.nn.mlp import MLP, SILU_GAIN, TANH_GAIN, ScaledLinear, scaled_silu, scaled_tanh
from mlff2d.nn.radial import BesselBasis, PolynomialEnvelope
from mlff2d.nn.scatter import segment_sum
from mlff2d.nn.tensor_product import NeighbourTensorProduct, find_paths
from tests.irreps import exact, flat, listed, random_features, reference_product

MIXED = o3.Irreps("5x0e+2x0o+3x1o+2x1e+2x2e+1x2o")
EVEN = o3.Irreps("4x0e+3x1e+2x2e+2x3e")
ELEMENTS = st.lists(st.integers(1, 118), min_size=1, unique=True).map(sorted)


@given(elements=ELEMENTS)
def test_element_index_counts_the_elements(elements: list[int]) -> None:
    index = ElementIndex(elements)
    assert len(index) == len(elements)
    assert index(torch.tensor(elements)).tolist() == list(range(len(elements)))
    others = sorted(set(range(119)) - set(elements))
    assert (index(torch.tensor(others)) == -1).all()
    assert not index.state_dict()


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ((), "empty"),
        ((6, 1), r"use \(1, 6\)"),
        ((6, 6), r"use \(6,\)"),
        ((0, 6), "has 0"),
        ((6, 119), "has 119"),
        (None, r"list of atomic numbers such as \(16, 42\), not None"),
        (42, "list of atomic numbers"),
        ("42", "list of atomic numbers"),
        ({6: "C"}, "list of atomic numbers"),
        (["Mo"], "list of atomic numbers"),
        ([6.5], "list of atomic numbers"),
        ([True], "list of atomic numbers"),
        ([math.inf], "list of atomic numbers"),
    ],
)
def test_elements_refused(elements: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_elements(elements)


@given(index=st.lists(st.integers(0, 6), max_size=30), seed=st.integers(0, 99))
def test_segment_sum_against_loop(index: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    src = torch.randn(len(index), 2, 3, generator=generator, dtype=torch.float64)
    expected = np.zeros((7, 2, 3))
    for row, k in zip(src.numpy(), index, strict=True):
        expected[k] += row
    found = segment_sum(src, torch.tensor(index, dtype=torch.int64), 7)
    assert found.numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cutoff", [3.0, 5.0])
def test_bessel_basis_is_orthonormal_and_ends_at_the_cutoff(cutoff: float) -> None:
    x, w = np.polynomial.legendre.leggauss(100)
    r = torch.from_numpy(0.5 * cutoff * (x + 1))
    basis = BesselBasis(8, cutoff).double()
    values = basis(r)
    overlap = (values.T * torch.from_numpy(0.5 * cutoff * w) * r**2) @ values
    assert overlap.numpy() == pytest.approx(np.eye(8), abs=1e-10)
    assert basis(torch.tensor([cutoff], dtype=torch.float64)).abs().max() < 1e-12
    assert not basis.state_dict()


def test_bessel_basis_is_not_rounded_for_good() -> None:
    r = torch.linspace(0.5, 5.0, 50, dtype=torch.float64)
    assert torch.equal(BesselBasis(8, 5.3).float().double()(r), BesselBasis(8, 5.3).double()(r))


@pytest.mark.parametrize("bad", [(0, 5.0), (8, 0.0), (8, -1.0), (8, math.inf), (8, math.nan)])
def test_bessel_basis_refused(bad: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="not"):
        BesselBasis(*bad)


@pytest.mark.parametrize("p", [2, 3, 6, 9])
def test_envelope_ends_smoothly(p: int) -> None:
    envelope = PolynomialEnvelope(p)
    x = torch.tensor([0.0, 1.0, 1.0 + 1e-9, 1.7], dtype=torch.float64, requires_grad=True)
    value = envelope(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert value.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert slope[1:].detach().numpy() == pytest.approx(0.0, abs=1e-10)
    assert curvature[1:].numpy() == pytest.approx(0.0, abs=1e-10)


@given(p=st.integers(2, 12))
def test_envelope_falls_as_published(p: int) -> None:
    x = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    found = PolynomialEnvelope(p)(x)
    expected = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1)
    expected -= p * (p + 1) / 2 * x ** (p + 2)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-10)
    assert (found.diff() < 1e-12).all()


def test_envelope_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        PolynomialEnvelope(1)


@pytest.mark.parametrize("function", [scaled_silu, scaled_tanh])
def test_scaled_activations_keep_the_second_moment(function: Callable[[Tensor], Tensor]) -> None:
    x, w = np.polynomial.hermite_e.hermegauss(200)
    values = function(torch.from_numpy(x)).numpy()
    assert (w * values**2).sum() / math.sqrt(2 * math.pi) == pytest.approx(1.0, abs=1e-9)


def test_mlp_keeps_zero_and_the_second_moment() -> None:
    torch.manual_seed(0)
    mlp = MLP((64, 128, 128, 512), gain=0.5)
    assert mlp(torch.zeros(3, 64)).abs().max() == 0.0
    moment = mlp(torch.randn(500, 64)).pow(2).mean()
    assert float(moment.detach()) == pytest.approx(0.25, rel=0.2)
    # With nothing between the layers the sign of the input would only flip that of the output.
    x = torch.randn(5, 64)
    assert not torch.allclose(mlp(-x), -mlp(x), atol=1e-3)


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 2)])
def test_mlp_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive sizes"):
        MLP(sizes)


def test_constant_stays_exact() -> None:
    third = torch.tensor([1.0 / 3.0], dtype=torch.float64)
    constant = Constant(third)
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    with torch.inference_mode():
        assert constant.float()(single).dtype == torch.float32
    weight = torch.ones(1, requires_grad=True)
    (weight * constant(single)).sum().backward()
    assert torch.equal(constant.double()(double), third)
    assert not constant.state_dict()


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_spherical_harmonics_against_e3nn(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    unit[:3] = torch.eye(3)
    unit = torch.nn.functional.normalize(unit)
    expected = o3.spherical_harmonics(list(range(7)), unit, False, normalization="component")
    for l_max in range(7):
        found = SphericalHarmonics(l_max)(unit)
        assert found.shape == (7, (l_max + 1) ** 2)
        assert torch.allclose(found, expected[:, : (l_max + 1) ** 2], rtol=0, atol=1e-10)


def test_irreps_linear_against_e3nn() -> None:
    torch.manual_seed(0)
    irreps_out = o3.Irreps("4x0e+3x1e+6x2e")
    ours = IrrepsLinear(MIXED, irreps_out, gain=0.7).double()
    with exact():
        theirs = o3.Linear(MIXED, irreps_out, internal_weights=False, shared_weights=True)
    # e3nn scales its weights to a gain of 1 when it uses them.
    weight = torch.cat([w.flatten() for w in ours.weights]) * 0.7
    x = random_features(MIXED, 6)
    assert torch.allclose(flat(ours(x)), theirs(flat(x), weight), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="3o is not among"):
        IrrepsLinear(MIXED, o3.Irreps("2x3o"))


@pytest.mark.parametrize("rank", [0, 3])
def test_element_linear_against_e3nn(rank: int) -> None:
    # The fully connected tensor product with the one-hot element, or with its attributes.
    torch.manual_seed(0)
    irreps_out = o3.Irreps("4x0e+3x1e+6x2e+2x3o")
    n_elements = 5
    ours = ElementLinear(n_elements, MIXED, irreps_out, rank=rank).double()
    attributes = torch.eye(n_elements, dtype=torch.float64)
    if rank:
        assert ours.attributes is not None
        attributes = ours.attributes.detach()
    with exact():
        theirs = o3.FullyConnectedTensorProduct(
            MIXED,
            f"{attributes.shape[1]}x0e",
            irreps_out,
            internal_weights=False,
            shared_weights=True,
        )
    weight = torch.cat([w.transpose(0, 1).flatten() for w in ours.weights])
    if not rank:  # e3nn counts the zeros of the one-hot element as inputs
        weight = weight * math.sqrt(n_elements)
    x = random_features(MIXED, 8)
    element = torch.tensor([0, 1, 2, 3, 4, 0, 1, 3])
    found = ours(x, element)
    assert found[-1] is None
    expected = listed(theirs(flat(x), attributes[element], weight), irreps_out)
    assert expected[-1].abs().max() == 0.0
    present = [part for part in found if part is not None]
    assert torch.allclose(flat(present), flat(expected[:-1]), rtol=0, atol=1e-10)


def test_attribute_linear_against_e3nn() -> None:
    torch.manual_seed(0)
    irreps_out = o3.Irreps("4x0e+3x1e+6x2e+2x3o")
    ours = AttributeLinear(3, MIXED, irreps_out, gain=0.7).double()
    with exact():
        theirs = o3.FullyConnectedTensorProduct(
            MIXED, "3x0e", irreps_out, internal_weights=False, shared_weights=True
        )
    weight = torch.cat([w.transpose(0, 1).flatten() for w in ours.weights]) * 0.7
    x, attributes = random_features(MIXED, 8), torch.randn(8, 3, dtype=torch.float64)
    found = ours(x, attributes)
    assert found[-1] is None
    expected = listed(theirs(flat(x), attributes, weight), irreps_out)
    present = [part for part in found if part is not None]
    assert torch.allclose(flat(present), flat(expected[:-1]), rtol=0, atol=1e-10)


def test_scaled_linear_changes_by_the_same_fraction_whatever_its_width() -> None:
    # Adam's first step moves every weight by the learning rate.
    for n_in in (4, 256):
        torch.manual_seed(0)
        linear = ScaledLinear(n_in, 2000)
        x = torch.randn(n_in)
        before = linear(x)
        with torch.no_grad():
            linear.weight.add_(torch.randn(2000, n_in).sign(), alpha=0.01)
        change = (linear(x) - before).norm() / before.norm()
        assert float(change.detach()) == pytest.approx(0.01, rel=0.1)


def test_alike_rows_share_half_the_variance() -> None:
    torch.manual_seed(0)
    rows = alike(4, 200, 100).flatten(1).double()
    expected = 0.5 * torch.ones(4, 4, dtype=torch.float64) + 0.5 * torch.eye(4, dtype=torch.float64)
    assert rows @ rows.T / rows.shape[1] == pytest.approx(expected, abs=0.03)


@given(size=st.floats(-6.0, 6.0), seed=st.integers(0, 99))
def test_rms_norm_of_features_of_any_size(size: float, seed: int) -> None:
    norm = RMSNorm(MIXED).double()
    x = random_features(MIXED, 5, seed)
    scale = torch.linspace(1.0, 3.0, 5, dtype=torch.float64)[:, None, None] * 10**size
    found = norm([part * scale for part in x])
    for atom in range(5):
        balanced = np.mean([part[atom].square().mean() for part in x]) * float(scale[atom]) ** 2
        expected = [part[atom] * scale[atom] / math.sqrt(balanced + 0.01) for part in x]
        for part, wanted in zip(found, expected, strict=True):
            assert part[atom].detach().numpy() == pytest.approx(wanted.numpy(), abs=1e-10)
    with torch.no_grad():
        norm.weights[2][1] = 0.0
    changed = norm([part * scale for part in x])
    assert (changed[2][:, :, 1] == 0).all()
    assert torch.equal(changed[2][:, :, 0], found[2][:, :, 0])


def test_rms_norm_of_zero() -> None:
    norm = RMSNorm(MIXED).double()
    x = [torch.zeros_like(part).requires_grad_(True) for part in random_features(MIXED, 2)]
    found = norm(x)
    slopes = torch.autograd.grad(flat(found).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(flat(list(slopes)).square().sum(), x[:1])
    assert all((part == 0).all() for part in found)
    assert all((slope == 10.0).all() for slope in slopes)
    assert (curvature == 0).all()
    steep = RMSNorm(MIXED, epsilon=1e-6).double()(x)
    assert all((s == 1e3).all() for s in torch.autograd.grad(flat(steep).sum(), x))


@pytest.mark.parametrize("text", ["8x0e", "5x0e+2x0o", "4x0e+3x1o", str(MIXED)])
def test_gate_against_e3nn(text: str) -> None:
    irreps = o3.Irreps(text)
    ours = Gate(irreps)
    scalars = o3.Irreps([(mul, ir) for mul, ir in irreps if ir.l == 0])
    gated = o3.Irreps([(mul, ir) for mul, ir in irreps if ir.l > 0])
    gates = o3.Irreps([(gated.num_irreps, "0e")] if gated else "")
    functions = [torch.nn.functional.silu, torch.tanh][: len(scalars)]
    with exact():
        theirs = E3nnGate(scalars, functions, gates, [functions[0]] if gated else [], gated)
        gains = [normalize2mom(function).cst for function in functions]
    x = random_features(ours.irreps_in, 9)
    by_irrep = {ir: part for (_, ir), part in zip(ours.irreps_in, x, strict=True)}
    parts = listed(theirs(flat([by_irrep[ir] for _, ir in theirs.irreps_in])), theirs.irreps_out)
    expected = {ir: part for (_, ir), part in zip(theirs.irreps_out, parts, strict=True)}
    # e3nn finds its gains by drawing numbers; ours are integrals.
    ratios = {ir: SILU_GAIN / gains[0] for _, ir in irreps}
    if len(scalars) > 1:
        ratios[o3.Irrep("0o")] = TANH_GAIN / gains[1]
    assert list(ratios.values()) == pytest.approx([1.0] * len(irreps), rel=3e-3)
    for (_, ir), found in zip(irreps, ours(x), strict=True):
        assert torch.allclose(found, expected[ir] * ratios[ir], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("irreps_in", "l_max", "wanted"),
    [
        (EVEN, 3, [ir for _, ir in EVEN]),
        (MIXED, 2, [ir for _, ir in MIXED]),
        (MIXED, 3, [o3.Irrep("0e")]),
        (o3.Irreps("6x0e"), 2, [o3.Irrep("0e"), o3.Irrep("1o"), o3.Irrep("2e")]),
        (o3.Irreps("4x0e+3x1o+2x2e+1x3o"), 3, [o3.Irrep("0e"), o3.Irrep("1o"), o3.Irrep("3o")]),
    ],
)
def test_tensor_product_against_e3nn(
    irreps_in: o3.Irreps, l_max: int, wanted: list[o3.Irrep]
) -> None:
    parity = irreps_in != EVEN
    product = NeighbourTensorProduct(irreps_in, l_max, wanted, parity)
    assert {ir for _, ir in product.irreps_out} <= set(wanted)
    generator = torch.Generator().manual_seed(1)
    x = random_features(irreps_in, 5)
    edge_index = torch.randint(0, 5, (2, 11), generator=generator)
    unit = torch.randn(11, 3, generator=generator, dtype=torch.float64)
    harmonics = SphericalHarmonics(l_max)(torch.nn.functional.normalize(unit))
    weights = torch.randn(11, product.n_weights, generator=generator, dtype=torch.float64)
    found = product(x, harmonics, weights, edge_index)
    assert [(part.shape[2], part.shape[1]) for part in found] == [
        (mul, ir.dim) for mul, ir in product.irreps_out
    ]
    expected = reference_product(
        product, irreps_in, l_max, x, harmonics, weights, edge_index, parity
    )
    assert torch.allclose(flat(found), expected, rtol=0, atol=1e-10)
    # No edges, no message.
    nothing = product(x, harmonics[:0], weights[:0], edge_index[:, :0])
    assert [part.shape for part in nothing] == [part.shape for part in found]
    assert all((part == 0).all() for part in nothing)


def test_paths_follow_triangle_and_parity() -> None:
    paths = find_paths(o3.Irreps("2x1o"), 2, [o3.Irrep("0e"), o3.Irrep("1e"), o3.Irrep("1o")])
    assert [(p.degree, str(p.out)) for p in paths] == [
        (0, "1o"),
        (1, "0e"),
        (1, "1e"),
        (2, "1o"),
    ]


def test_paths_without_parity() -> None:
    paths = find_paths(o3.Irreps("2x1e"), 1, [o3.Irrep(degree, 1) for degree in range(3)], False)
    assert [(p.degree, str(p.out)) for p in paths] == [(0, "1e"), (1, "0e"), (1, "1e"), (1, "2e")]


def test_tensor_product_is_twice_differentiable() -> None:
    irreps_in = o3.Irreps("2x0e+1x1o+1x1e")
    product = NeighbourTensorProduct(irreps_in, 1, [ir for _, ir in irreps_in])
    harmonics = SphericalHarmonics(1)
    edge_index = torch.tensor([[0, 0, 1], [1, 0, 0]])

    def function(x: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(vectors)
        return flat(product(listed(x, irreps_in), harmonics(unit), weights, edge_index))

    generator = torch.Generator().manual_seed(2)
    inputs = tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((2, irreps_in.dim), (3, 3), (3, product.n_weights))
    )
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
