"""Products of an atom's features with themselves, which rotate as irreps: MACE's B functions.

Axes: N atoms, C channels, D components of all input irreps together, T monomials, K families.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from e3nn import o3
from torch import Tensor, nn

from mlff2d.nn.constant import Constant
from mlff2d.nn.equivariant import alike
from mlff2d.nn.symmetric_tables import Irreps, families, monomials

Product = tuple[int, ...]


@dataclass(frozen=True)
class Polynomials:
    """The components of all output irreps as polynomials, without their coefficients.

    Factors are 1, the D components, and what the stages add; monomials are products of two.

    Attributes
    ----------
    stages : (S, 2)
        Pairs of factors whose product is the next factor.
    monomials : (T, 2)
        Pairs of factors; those of one output component after those of another.
    ends : (sum of 2L + 1,)
        Where those of each output component end.
    """

    stages: Tensor
    monomials: Tensor
    ends: Tensor


class SymmetricContraction(nn.Module):
    """Symmetric polynomials of each channel's features, with weights of the atom's element.

    Batatia et al., NeurIPS 2022, eqs. 10 and 11: the sum over all products of 1 to `correlation`
    components of A with generalised Clebsch-Gordan coefficients, that is over the families eta,

        m^LM_zc = sum_(nu, eta) W^L_(z, nu eta, c) B^LM_(nu eta, c).

    Products are listed once, not once for each order of their factors, and only those that any
    coefficient needs. All of them are then products of two from a short list of shorter ones, and
    the families one small matrix times them.

    Parameters
    ----------
    n_elements
        Number of elements.
    irreps_in
        Of A, each irrep once, the same number of channels for all.
    irreps_out
        Each irrep once, with that number of channels; every one can be made by `correlation`
        factors (`symmetric_tables.counts`).
    correlation
        Greatest number of factors.
    """

    def __init__(
        self, n_elements: int, irreps_in: o3.Irreps, irreps_out: o3.Irreps, correlation: int
    ) -> None:
        super().__init__()
        self.channels = irreps_in[0].mul
        self.correlation = correlation
        plan = _plan(_distinct(irreps_in), _distinct(irreps_out), correlation)
        self.n_stages, self.n_blocks = len(plan.stages), len(plan.blocks)
        for kind, lists in (("stage", plan.stages), ("block", plan.blocks)):
            for k, pairs in enumerate(lists):
                self.register_buffer(f"{kind}_{k}", torch.tensor(pairs).T, persistent=False)
        self.matrices = nn.ModuleList(Constant(torch.from_numpy(m)) for m in plan.matrices)
        self.rows = plan.rows
        self.dims_in = [ir.dim for _, ir in irreps_in]
        self.dims = [ir.dim for _, ir in irreps_out]
        self.weights = nn.ParameterList(
            alike(n_elements, number, self.channels) for number in plan.n_families
        )
        self.factors = [1.0 / math.sqrt(number) for number in plan.n_families]

    def forward(self, x: list[Tensor], element: Tensor) -> list[Tensor]:
        """List of (N, 2l+1, C) and (N,) row numbers of elements -> list of (N, 2L+1, C)."""
        n_atoms = x[0].shape[0]
        flat = torch.cat([part.transpose(0, 1) for part in x]).flatten(1)  # (D, N C)
        products = torch.cat([flat.new_ones(1, flat.shape[1]), flat])
        for k in range(self.n_stages):
            products = torch.cat([products, _multiplied(products, self.get_buffer(f"stage_{k}"))])
        weights = [
            (weight * factor).index_select(0, element).transpose(0, 1)  # (K, N, C)
            for weight, factor in zip(self.weights, self.factors, strict=True)
        ]
        found: dict[tuple[int, int], Tensor] = {}
        for k, (matrix, rows) in enumerate(zip(self.matrices, self.rows, strict=True)):
            block = _multiplied(products, self.get_buffer(f"block_{k}"))
            values = (matrix(flat) @ block).view(-1, n_atoms, self.channels)
            sizes = [weights[out].shape[0] for out, _ in rows]
            for (out, m), part in zip(rows, values.split(sizes), strict=True):
                found[out, m] = (part * weights[out]).sum(0)
        return [
            torch.stack([found[out, m] for m in range(dim)], dim=1)
            for out, dim in enumerate(self.dims)
        ]

    def polynomials(self) -> Polynomials:
        """What is computed, written as polynomials; see `coefficients`."""
        stages = [self.get_buffer(f"stage_{k}") for k in range(self.n_stages)]
        monomials = [
            self.get_buffer(f"block_{block}")[:, columns]
            for block, _, columns in self._components()
        ]
        return Polynomials(
            torch.cat([torch.zeros(2, 0, dtype=torch.int64), *stages], dim=1).T,
            torch.cat(monomials, dim=1).T,
            torch.tensor([part.shape[1] for part in monomials]).cumsum(0),
        )

    def coefficients(self) -> Iterator[Tensor]:
        """(n_elements, T, C) float64 coefficients of the monomials of each output component."""
        outs = [out for out, dim in enumerate(self.dims) for _ in range(dim)]
        for out, (_, matrix, columns) in zip(outs, self._components(), strict=True):
            weight = self.weights[out].detach().double() * self.factors[out]
            yield torch.einsum("zkc,kt->ztc", weight, matrix[:, columns])

    def _components(self) -> list[tuple[int, Tensor, Tensor]]:
        """For each output component its block, (K, T_block) families and their columns not zero."""
        exact = torch.empty(0, dtype=torch.float64)
        found = {}
        for block, (matrix, rows) in enumerate(zip(self.matrices, self.rows, strict=True)):
            sizes = [self.weights[out].shape[1] for out, _ in rows]
            for row, part in zip(rows, matrix(exact).split(sizes), strict=True):
                found[row] = block, part, part.any(dim=0).nonzero().squeeze(1)
        return [found[row] for row in sorted(found)]


def _multiplied(products: Tensor, pairs: Tensor) -> Tensor:
    """Products of pairs of rows, which are given as (2, T)."""
    left, right = pairs
    return products.index_select(0, left) * products.index_select(0, right)


def _distinct(irreps: o3.Irreps) -> Irreps:
    return tuple(ir for _, ir in irreps)


class _Plan:
    """What to multiply, and which matrices make families of the products.

    Attributes
    ----------
    stages
        Pairs of rows to multiply. The list starts with 1 and the D components of x, and the
        results of each stage are appended.
    blocks
        Pairs of rows whose products are the monomials of the families, in several blocks.
    matrices
        (families, T_block) for each block.
    rows
        For each block the pairs (output irrep, component) whose families, K after K, are its rows.
    n_families
        K for each output irrep: those of degree 1 first.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, correlation: int) -> None:
        dim = sum(ir.dim for ir in irreps_in)
        tables = [
            [families(irreps_in, degree, ir) for degree in range(1, correlation + 1)]
            for ir in irreps_out
        ]
        self.n_families = [sum(len(table) for table in by_degree) for by_degree in tables]
        coefficients = {
            (out, m): _coefficients([table[:, m] for table in by_degree], dim)
            for out, by_degree in enumerate(tables)
            for m in range(irreps_out[out].dim)
        }
        self.rows = _blocks({row: set(columns) for row, columns in coefficients.items()})
        self.matrices: list[np.ndarray] = []
        listed: list[list[Product]] = []
        for rows in self.rows:
            block = sorted(set().union(*(coefficients[row] for row in rows)), key=_by_degree)
            matrix = [
                [coefficients[out, m].get(t, np.zeros(self.n_families[out])) for t in block]
                for out, m in rows
            ]
            self.matrices.append(np.concatenate([np.stack(part, axis=1) for part in matrix]))
            listed.append(block)
        self.stages, self.blocks = _stages(listed, dim, correlation)


@lru_cache(maxsize=16)
def _plan(irreps_in: Irreps, irreps_out: Irreps, correlation: int) -> _Plan:
    return _Plan(irreps_in, irreps_out, correlation)


def _by_degree(product: Product) -> tuple[int, Product]:
    return len(product), product


def _coefficients(tables: list[np.ndarray], dim: int) -> dict[Product, np.ndarray]:
    """(K,) coefficients of all families by monomial, of (K_degree, T_degree) tables."""
    found = {}
    ends = np.cumsum([len(table) for table in tables])
    for degree, (table, end) in enumerate(zip(tables, ends, strict=True), start=1):
        for column in np.flatnonzero(table.any(axis=0)):
            values = np.zeros(ends[-1])
            values[end - len(table) : end] = table[:, column]
            found[monomials(dim, degree).tuples[column]] = values
    return found


def _blocks(needed: dict[tuple[int, int], set[Product]]) -> list[list[tuple[int, int]]]:
    """Output components together that need the same monomials.

    A monomial changes sign or not when an axis is reversed, and serves only components that do
    the same; so up to eight blocks have nothing in common.
    """
    blocks: list[tuple[set[Product], list[tuple[int, int]]]] = []
    for row, products in needed.items():
        apart = [block for block in blocks if not block[0] & products]
        joined, rows = set(products), [row]
        for others, other_rows in blocks:
            if others & products:
                joined |= others
                rows += other_rows
        blocks = [*apart, (joined, rows)]
    return [sorted(rows) for _, rows in blocks]


Pairs = list[tuple[int, int]]


def _stages(
    blocks: list[list[Product]], dim: int, correlation: int
) -> tuple[list[Pairs], list[Pairs]]:
    """How to make all products from 1 and the components, by multiplying two at a time."""
    levels, degree = [[product for block in blocks for product in block]], correlation
    while degree > 2:  # each stage doubles the degree
        degree = (degree + 1) // 2
        levels.append(_factors(levels[-1], degree))
    rows: dict[Product, int] = {(): 0} | {(i,): i + 1 for i in range(dim)}

    def pairs(products: list[Product]) -> Pairs:
        known = set(rows)
        splits = [_cheapest_split(product, degree, known) for product in products]
        return [(rows[a], rows[b]) for a, b in splits]

    stages = []
    for level in levels[:0:-1]:
        stages.append(pairs(level))
        rows |= {product: len(rows) + k for k, product in enumerate(level)}
        degree *= 2
    return stages, [pairs(block) for block in blocks]


def _factors(listed: list[Product], degree: int) -> list[Product]:
    """Products of two to `degree` components, of two of which all those listed can be made."""
    chosen: dict[Product, None] = {}
    for product in listed:
        parts = _cheapest_split(product, degree, set(chosen))
        chosen |= {part: None for part in parts if len(part) > 1}
    return sorted(chosen, key=_by_degree)


def _cheapest_split(product: Product, degree: int, known: set[Product]) -> tuple[Product, Product]:
    """Two factors of at most `degree` components each, as few of them unknown as possible."""
    best: tuple[Product, Product] = (product, ())
    least = 3
    for size in range(len(product) // 2 + 1):
        if len(product) - size > degree:
            continue
        for places in combinations(range(len(product)), size):
            part = tuple(product[k] for k in places)
            rest = tuple(i for k, i in enumerate(product) if k not in places)
            cost = sum(len(f) > 1 and f not in known for f in (part, rest))
            if cost < least:
                best, least = (rest, part), cost
    return best
