"""Symmetric equivariant polynomials: the generalised Clebsch-Gordan coefficients of MACE.

Batatia et al., NeurIPS 2022, eqs. 9 to 11, couple nu copies of one vector x of irreps to an irrep
L by coefficients C^LM_(eta, l1 m1 .. l_nu m_nu). Because the copies are the same, only the part of
C that is symmetric under their exchange counts: a family eta is a set of 2L+1 homogeneous
polynomials of degree nu in the components of x. Here the families are written in monomials, each
exchange counted once, and reduced to a basis without redundancy.

Axes: D components of x, K families, M orders of an irrep, T monomials of one degree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
import torch
from e3nn import o3

Irreps = tuple[o3.Irrep, ...]

MAX_TABLE_BYTES = 2**29
"""Memory that the tables of one contraction may take; see `table_bytes`."""

MAX_CORRELATION = 12
"""Beyond it the coefficients differ too much in size, however few of them there are."""

# Of a polynomial of norm 1, below which what is left beside others counts as round-off.
_INDEPENDENT = 1e-4
_ZERO = 1e-9


def counts(irreps_in: Irreps, correlation: int) -> list[dict[o3.Irrep, int]]:
    """How many independent families lead to each irrep, by degree 0..correlation.

    Exact, from characters: a polynomial that gains a factor exp(i m phi) in a turn by phi about
    an axis is a product of variables whose m add up to it, and an irrep l takes one of these of
    every |m| <= l.
    """
    reach = correlation * max((ir.l for ir in irreps_in), default=0) + 1
    # found[degree][parity] lists the number of monomials for m = -reach..reach
    found = np.zeros((correlation + 1, 2, 2 * reach + 1), dtype=np.int64)
    found[0, 0, reach] = 1
    for ir in irreps_in:
        for m in range(-ir.l, ir.l + 1):
            for degree in range(1, correlation + 1):
                lower = np.roll(found[degree - 1], m, axis=1)
                found[degree] += lower if ir.p == 1 else lower[::-1]
    return [
        {
            o3.Irrep(deg, (1, -1)[odd]): int(rows[odd, reach + deg] - rows[odd, reach + deg + 1])
            for deg in range(reach)
            for odd in (0, 1)
            if rows[odd, reach + deg] > rows[odd, reach + deg + 1]
        }
        for rows in found
    ]


def table_bytes(irreps_in: Irreps, irreps_out: Irreps, correlation: int) -> int:
    """Memory for the coefficients of all families and of those that they are made of, in bytes.

    Counted, not computed, so that it costs nothing also where the answer is out of reach.
    """
    dim = sum(ir.dim for ir in irreps_in)
    number = counts(irreps_in, correlation)
    total, wanted = 0, set(irreps_out)
    for degree in range(correlation, 0, -1):
        n_rows = sum(number[degree].get(ir, 0) * ir.dim for ir in wanted)
        total += 8 * n_rows * math.comb(dim + degree - 1, degree)
        wanted |= {part for ir in wanted for one in irreps_in for part in ir * one}
    return total


def greatest_correlation(irreps_in: Irreps, irreps_out: Irreps, wanted: int) -> int:
    """The greatest correlation order up to the one wanted whose tables can be made.

    They take at most `MAX_TABLE_BYTES`, and the order is at most `MAX_CORRELATION`.
    """
    order = 1
    while order < min(wanted, MAX_CORRELATION):
        if table_bytes(irreps_in, irreps_out, order + 1) > MAX_TABLE_BYTES:
            break
        order += 1
    return order


@dataclass(frozen=True)
class Monomials:
    """All products of `degree` components, each as an ascending tuple of their numbers."""

    tuples: tuple[tuple[int, ...], ...]
    rows: dict[tuple[int, ...], int]

    def times(self, component: int, higher: Monomials) -> np.ndarray:
        """(T,) rows among the monomials of one degree more, after multiplication with one."""
        return np.array([higher.rows[tuple(sorted((*t, component)))] for t in self.tuples])

    def orderings(self) -> np.ndarray:
        """(T,) number of different orders in which the components of a monomial can stand."""
        degree = math.factorial(len(self.tuples[0]))
        return np.array(
            [degree // math.prod(math.factorial(t.count(i)) for i in set(t)) for t in self.tuples],
            dtype=float,
        )


@lru_cache(maxsize=32)
def monomials(dim: int, degree: int) -> Monomials:
    """The monomials of one degree in `dim` components, in lexical order."""
    tuples = tuple(combinations_with_replacement(range(dim), degree))
    return Monomials(tuples, {t: row for row, t in enumerate(tuples)})


@lru_cache(maxsize=256)
def families(irreps_in: Irreps, degree: int, irrep: o3.Irrep) -> np.ndarray:
    """(K, 2L+1, T) coefficients of the families of polynomials that rotate as an irrep.

    Made from those of one degree less, times the components of x, coupled by Wigner's 3j symbols;
    one that is a sum of those before is left out. Families are orthogonal to each other under the
    inner product of symmetric tensors, and such that independent normal components of x give
    polynomials of variance about 1. Neither the order nor the signs depend on those of the 3j
    symbols or on a linear algebra library: weights mean the same on every machine.
    """
    dim = sum(ir.dim for ir in irreps_in)
    if degree == 1:
        return _components(irreps_in, irrep, dim)
    wanted = counts(irreps_in, degree)[degree].get(irrep, 0)
    own = monomials(dim, degree)
    weights = 1.0 / own.orderings()
    found = np.zeros((wanted, irrep.dim * len(own.tuples)))
    n_found = 0
    candidates = _candidates(irreps_in, degree, irrep, wanted)
    while n_found < wanted:
        new = next(candidates).reshape(-1)
        metric = np.tile(weights, irrep.dim)
        norm = math.sqrt((new * new * metric).sum())
        if norm < _ZERO:
            continue
        new = new / norm
        for _ in range(2):  # the second time takes away what round-off left
            new = new - (found[:n_found] @ (new * metric)) @ found[:n_found]
        rest = math.sqrt((new * new * metric).sum())
        if rest < _INDEPENDENT:
            continue
        new = new / rest
        first = new[np.argmax(np.abs(new) > 1e-3 * np.abs(new).max())]
        found[n_found] = new if first > 0 else -new
        n_found += 1
    found *= math.sqrt(irrep.dim / math.factorial(degree))
    found[np.abs(found) < _ZERO] = 0.0
    return found.reshape(wanted, irrep.dim, len(own.tuples))


def _components(irreps_in: Irreps, irrep: o3.Irrep, dim: int) -> np.ndarray:
    """Degree 1: the components of x themselves."""
    rows, first = [], 0
    for ir in irreps_in:
        if ir == irrep:
            rows.append(np.eye(dim)[first : first + ir.dim])
        first += ir.dim
    return np.stack(rows) if rows else np.zeros((0, irrep.dim, dim))


def _candidates(
    irreps_in: Irreps, degree: int, irrep: o3.Irrep, wanted: int
) -> Iterator[np.ndarray]:
    """(2L+1, T) products of a family of one degree less with x, one after another."""
    dim = sum(ir.dim for ir in irreps_in)
    lower, own = monomials(dim, degree - 1), monomials(dim, degree)
    if not wanted:
        return
    starts = np.cumsum([0, *(ir.dim for ir in irreps_in)])
    pairs = [
        (left, ir, start)
        for ir, start in zip(irreps_in, starts, strict=False)
        for left in irrep * ir
    ]
    # Families of low degree first: they have fewer components.
    for left, ir, start in sorted(pairs, key=lambda pair: (pair[0].l, pair[0].p, pair[2])):
        basis = families(irreps_in, degree - 1, left)
        if not len(basis):
            continue
        symbol = o3.wigner_3j(left.l, ir.l, irrep.l, dtype=torch.float64).numpy()
        targets = [lower.times(start + m, own) for m in range(ir.dim)]
        for family in basis:
            product = np.zeros((irrep.dim, len(own.tuples)))
            for m, target in enumerate(targets):
                product[:, target] += symbol[:, m].T @ family
            yield product


def projected(table: np.ndarray, irreps_in: Irreps, irrep: o3.Irrep) -> np.ndarray:
    """(K, K') our families that make up K' families of others.

    Parameters
    ----------
    table : (2L+1, D, .., D, K')
        Their coefficients, one axis D for each factor of x, symmetric or not.
    irreps_in, irrep
        What x is and what the families rotate as.

    Raises ValueError where theirs are not among the polynomials that rotate so.
    """
    degree, dim = table.ndim - 2, sum(ir.dim for ir in irreps_in)
    own = monomials(dim, degree)
    indices = np.indices((dim,) * degree).reshape(degree, -1)
    rows = np.array([own.rows[tuple(t)] for t in np.sort(indices, axis=0).T.tolist()])
    sums = np.zeros((len(own.tuples), irrep.dim, table.shape[-1]))
    np.add.at(sums, rows, np.moveaxis(table.reshape(irrep.dim, -1, table.shape[-1]), 1, 0))
    basis = families(irreps_in, degree, irrep)
    # The families are orthogonal, of norm sqrt((2L + 1) / degree!) / sqrt(2L + 1) a component.
    inner = np.einsum("kmt,t,tmj->kj", basis, 1.0 / own.orderings(), sums, optimize=True)
    inner *= math.factorial(degree) / irrep.dim
    rest = sums - np.einsum("kmt,kj->tmj", basis, inner, optimize=True)
    if np.abs(rest).max(initial=0.0) > 1e-4 * np.abs(sums).max(initial=0.0):
        raise ValueError(f"coefficients of degree {degree} do not rotate as {irrep}")
    return inner
