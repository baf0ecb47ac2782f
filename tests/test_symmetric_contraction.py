"""The products of MACE: families of equivariant polynomials, and their contraction."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.spatial.transform import Rotation
from torch import Tensor

from mlff2d.nn import symmetric_tables
from mlff2d.nn.symmetric_contraction import SymmetricContraction
from mlff2d.nn.symmetric_tables import Irreps, counts, families, monomials, projected, table_bytes


def natural(l_max: int) -> Irreps:
    return tuple(o3.Irrep(degree, (-1) ** degree) for degree in range(l_max + 1))


def symmetric_invariants(irreps: Irreps, irrep: o3.Irrep, degree: int) -> int:
    """Dimension of the symmetric equivariant tensors, from random rotations: by definition."""
    dim = sum(ir.dim for ir in irreps)
    tuples = monomials(dim, degree).tuples
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(3 * len(tuples), dim, generator=generator, dtype=torch.float64)
    powers = torch.stack([points[:, list(t)].prod(1) for t in tuples], dim=1)
    equations = []
    torch.set_default_dtype(torch.float64)
    try:
        turns = [torch.from_numpy(Rotation.random(rng=k).as_matrix()) for k in (1, 2)]
        for turn in [*turns, -torch.eye(3)]:
            turned = points @ torch.block_diag(*(ir.D_from_matrix(turn) for ir in irreps)).T
            turned_powers = torch.stack([turned[:, list(t)].prod(1) for t in tuples], dim=1)
            # Powers of turned points, as a matrix on the powers of the points.
            matrix = torch.linalg.lstsq(powers, turned_powers).solution.T
            d = irrep.D_from_matrix(turn)
            one, every = torch.eye(irrep.dim), torch.eye(len(tuples))
            equations.append(torch.kron(one, matrix.T.contiguous()) - torch.kron(d, every))
    finally:
        torch.set_default_dtype(torch.float32)
    values = torch.linalg.svdvals(torch.cat(equations))
    return int((values < 1e-8).sum())


@pytest.mark.parametrize(
    ("l_max", "degree", "irrep"),
    [
        (1, 1, "1o"),
        (1, 2, "0e"),
        (1, 2, "1e"),
        (2, 2, "2e"),
        (2, 3, "0e"),
        (2, 2, "2o"),
        (1, 4, "1o"),
    ],
)
def test_number_of_families_is_that_of_all_equivariant_polynomials(
    l_max: int, degree: int, irrep: str
) -> None:
    irreps, ir = natural(l_max), o3.Irrep(irrep)
    expected = symmetric_invariants(irreps, ir, degree)
    assert counts(irreps, degree)[degree].get(ir, 0) == expected
    assert families(irreps, degree, ir).shape[0] == expected


def test_numbers_of_families_fill_all_monomials() -> None:
    for degree, number in enumerate(counts(natural(3), 4)):
        assert sum(n * ir.dim for ir, n in number.items()) == math.comb(15 + degree, degree)
    assert counts(natural(3), 3)[3][o3.Irrep("0e")] == 8
    assert o3.Irrep("0o") not in counts(natural(3), 3)[3]


@pytest.mark.parametrize(("degree", "irrep"), [(2, "1o"), (3, "0e"), (3, "2e"), (4, "0e")])
def test_families_are_orthogonal_and_of_unit_size(degree: int, irrep: str) -> None:
    table = families(natural(2), degree, o3.Irrep(irrep))
    weights = math.factorial(degree) / monomials(9, degree).orderings()
    inner = np.einsum("amt,t,bmt->ab", table, weights, table) / table.shape[1]
    assert inner == pytest.approx(np.eye(len(table)), abs=1e-12)


def coupled(irreps: Irreps, degree: int, irrep: o3.Irrep) -> np.ndarray:
    """(2L+1, D, .., D, K) all coefficients of eq. 10, with redundancy."""
    dim = sum(ir.dim for ir in irreps)
    starts = np.cumsum([0, *(ir.dim for ir in irreps)])
    parts = [
        (ir, np.eye(dim)[start : start + ir.dim]) for ir, start in zip(irreps, starts, strict=False)
    ]
    trees = parts
    for _ in range(degree - 1):
        trees = [
            (
                out,
                np.einsum(
                    "abc,a...,bz->c...z",
                    o3.wigner_3j(left.l, ir.l, out.l, dtype=torch.float64).numpy(),
                    tree,
                    part,
                ),
            )
            for left, tree in trees
            for ir, part in parts
            for out in left * ir
        ]
    return np.stack([tree for out, tree in trees if out == irrep], axis=-1)


@pytest.mark.parametrize(
    ("l_max", "degree", "irrep"),
    [(2, 2, "1o"), (2, 3, "0e"), (2, 3, "1o"), (1, 4, "2e"), (2, 2, "2o")],
)
def test_all_couplings_are_sums_of_our_families(l_max: int, degree: int, irrep: str) -> None:
    irreps, ir = natural(l_max), o3.Irrep(irrep)
    table = coupled(irreps, degree, ir)
    mix = projected(table, irreps, ir)
    assert np.linalg.matrix_rank(mix) == len(families(irreps, degree, ir)) < table.shape[-1]
    rng = np.random.default_rng(0)
    x = rng.normal(size=table.shape[1])
    expected = table
    for _ in range(degree):
        expected = np.einsum("mi...,i->m...", expected, x)
    powers = np.array([np.prod(x[list(t)]) for t in monomials(len(x), degree).tuples])
    found = np.einsum("kmt,t,kj->mj", families(irreps, degree, ir), powers, mix)
    assert found == pytest.approx(expected, abs=1e-12)


def test_other_coefficients_are_refused() -> None:
    table = np.random.default_rng(0).normal(size=(1, 4, 4, 3))
    with pytest.raises(ValueError, match="degree 2 do not rotate as 0e"):
        projected(table, natural(1), o3.Irrep("0e"))


@pytest.mark.parametrize(("l_max", "correlation"), [(2, 1), (2, 2), (3, 3), (1, 4), (1, 5), (0, 3)])
def test_contraction_is_the_weighted_sum_of_families(l_max: int, correlation: int) -> None:
    torch.manual_seed(0)
    irreps_in = natural(l_max)
    wanted = [ir for ir in natural(min(l_max, 2))]
    with_channels = [o3.Irreps([(2, ir) for ir in irreps]) for irreps in (irreps_in, wanted)]
    module = SymmetricContraction(3, *with_channels, correlation).double()
    x = [torch.randn(4, ir.dim, 2, dtype=torch.float64) for ir in irreps_in]
    element = torch.tensor([2, 0, 2, 1])
    found = module(x, element)
    flat = torch.cat(x, dim=1)
    for out, ir in enumerate(wanted):
        weights = module.weights[out][element] * module.factors[out]
        expected = torch.zeros(4, ir.dim, 2, dtype=torch.float64)
        first = 0
        for degree in range(1, correlation + 1):
            table = torch.from_numpy(families(irreps_in, degree, ir))
            tuples = monomials(flat.shape[1], degree).tuples
            powers = torch.stack([flat[:, list(t)].prod(1) for t in tuples], dim=1)
            part = weights[:, first : first + len(table)]
            expected += torch.einsum("nkc,kmt,ntc->nmc", part, table, powers)
            first += len(table)
        assert torch.allclose(found[out], expected, atol=1e-11)


def test_tables_do_not_depend_on_the_signs_of_wigners_symbols(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Another version of e3nn may have them otherwise; weights in files must mean the same.
    expected = families(natural(2), 3, o3.Irrep("1o"))
    original = o3.wigner_3j

    def flipped(a: int, b: int, c: int, **kwargs: Any) -> Tensor:
        return original(a, b, c, **kwargs) * (-1.0) ** (a + 2 * b + c * a)

    monkeypatch.setattr(symmetric_tables.o3, "wigner_3j", flipped)
    families.cache_clear()
    try:
        found = families(natural(2), 3, o3.Irrep("1o"))
    finally:
        families.cache_clear()
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("degree", "irrep", "expected"),
    [
        (2, "0e", [0.544579102778, 0.62208301794, 0.627062420324]),
        (
            3,
            "0e",
            [0.275923270888, 0.545929208592, 0.550299045293, -0.037855652969, -0.09559968684],
        ),
        (
            3,
            "1o",
            [0.038522001817, 0.034085670885, 0.044356640885, 0.176716316144, -0.398279664529],
        ),
    ],
)
def test_families_are_those_that_weights_in_files_were_trained_for(
    degree: int, irrep: str, expected: list[float]
) -> None:
    # Their order, sizes and signs must stay for ever, or model files mean something else.
    x = np.cos(np.arange(9.0) + 0.5)
    powers = np.array([np.prod(x[list(t)]) for t in monomials(9, degree).tuples])
    found = families(natural(2), degree, o3.Irrep(irrep)) @ powers
    assert found[:, 0] == pytest.approx(expected, abs=1e-11)


def test_table_bytes_are_those_of_the_tables() -> None:
    irreps, out = natural(2), (o3.Irrep("0e"),)
    needed = {3: out, 2: natural(2), 1: natural(2)}
    # Degree 2 and 1 are needed for every irrep that couples with x to the one above.
    total = sum(
        families(irreps, degree, ir).nbytes for degree, wanted in needed.items() for ir in wanted
    )
    assert table_bytes(irreps, out, 3) >= total
    assert table_bytes(irreps, out, 3) < 4 * total
