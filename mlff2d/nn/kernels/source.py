"""The sum of messages over neighbours, and its gradient, as C.

One edge after another: its harmonics, its radial weights, the coupling of all paths, and nothing
of that is ever written to memory. The loops over channels are unrolled to the machine's vectors.

Axes: N atoms, E edges, W radial weights, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from e3nn import o3
from torch import Tensor

from mlff2d.nn.equivariant import SphericalHarmonics
from mlff2d.nn.tensor_product import NeighbourTensorProduct, Path, path_symbol

_HEAD = """\
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#else
#define BYTES 32
#endif
#define LANES ((int64_t)(BYTES / sizeof(real)))

typedef int64_t whole;
typedef real vec __attribute__((vector_size(BYTES)));
/* The same, anywhere in memory. */
typedef real loose __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

static inline real total(vec v)
{
    real sum = 0;
    for (whole k = 0; k < LANES; k++) sum += v[k];
    return sum;
}

/* Where the atoms of part t of n begin, so that all parts have about as many edges. */
static whole part(const whole *first, whole n_atoms, whole t, whole n)
{
    if (t == n) return n_atoms;
    whole low = 0, high = n_atoms;
    while (low < high) {
        whole middle = (low + high) / 2;
        if (first[middle] * n < first[n_atoms] * t) low = middle + 1; else high = middle;
    }
    return low;
}

/* Where the edges of each atom begin; 0 unless receivers ascend and all atoms are there. */
int rows(whole n_edges, whole n_atoms, const whole *receiver, whole *first)
{
    const whole *neighbour = receiver + n_edges;
    memset(first, 0, (n_atoms + 1) * sizeof(whole));
    for (whole e = 0; e < n_edges; e++) {
        if (receiver[e] < (e ? receiver[e - 1] : 0) || receiver[e] >= n_atoms) return 0;
        if (neighbour[e] < 0 || neighbour[e] >= n_atoms) return 0;
        first[receiver[e] + 1]++;
    }
    for (whole i = 0; i < n_atoms; i++) first[i + 1] += first[i];
    return 1;
}
"""

# Radial weights as polynomials of degree 5 in each cell; see `mlff2d.nn.kernels.table`.
_CELL = """\
            double place = scale * r / (r + 1);
            whole number = place >= 0 ? (whole)place : 0; /* NaN is no place, but goes on */
            real s = place - (double)number;
            const real *cell = radial + number * 6 * {n_weights};
"""
_RATE = "            real rate = scale / ((r + 1) * (r + 1));\n"


@dataclass(frozen=True)
class _Term:
    """A path as the code needs it; its radial weights and its output's channels start there."""

    out: int
    n_out: int
    weights: int
    channels: int
    coupling: dict[tuple[int, int], list[tuple[int, float]]]  # (m3, m1) -> [(m2, coefficient)]


@dataclass(frozen=True)
class _Group:
    """The paths of one input irrep."""

    source: int
    dim: int
    mul: int
    terms: list[_Term]


def functions(product: NeighbourTensorProduct, name: str, table: bool) -> str:
    """C functions `name_forward` and `name_backward` of a tensor product; see `library`.

    With `table` the radial weights are interpolated, else they are given for each edge and have a
    gradient.
    """
    kernel = Kernel(product, name, table)
    return "\n".join([*kernel.forward(), *kernel.backward()])


def library(parts: list[str], real: str) -> str:
    """A file of C with functions for a type of numbers, "float" or "double".

    Both functions take the atoms, threads, edges (where those of each atom begin, and their
    neighbours), edge vectors, radial weights (W for each edge, or a table and its scale), the
    cutoff, and the input; the first then the output; the second the gradient by the output, that
    by edge vectors, to which is added, by radial weights, and by the input, one for each thread,
    to which is added too.
    """
    f = "f" if real == "float" else ""
    names = f"typedef {real} real;\n#define EXP exp{f}\n#define TANH_OF tanh{f}"
    return "\n".join([names, _HEAD, *parts])


class Kernel:
    """Writes the functions of a tensor product."""

    arguments = "const real *vectors, const real *radial, double scale, double cutoff"

    def __init__(self, product: NeighbourTensorProduct, name: str, table: bool) -> None:
        self.name, self.table, self.n_weights = name, table, product.n_weights
        self.l_max = product.l_max
        exact = torch.empty(0, dtype=torch.float64)
        raising = SphericalHarmonics(self.l_max).couplings
        self.harmonics = [_nonzero(coupling(exact)) for coupling in raising]
        self.inputs = [term.dim for term in product.irreps_in]
        self.outs = [(ir.dim, mul) for mul, ir in product.irreps_out]
        position = {ir: k for k, (_, ir) in enumerate(product.irreps_out)}
        filled = [0] * len(self.outs)
        weights = 0
        self.groups = []
        for paths, mul in zip(product.groups, product.muls, strict=True):
            terms = []
            for path in paths:
                out = position[path.out]
                ir = product.irreps_in[path.source].ir
                terms.append(
                    _Term(out, path.out.dim, weights, filled[out], _path_coupling(ir, path))
                )
                filled[out] += mul
                weights += mul
            self.groups.append(_Group(paths[0].source, ir.dim, mul, terms))

    def forward(self) -> Iterator[str]:
        outs = range(len(self.outs))
        yield f"""\
void {self.name}_forward(whole n_atoms, whole n_threads, const whole *first,
    const whole *neighbour, {self.arguments},
    const real *const *x, real *const *out)
{{
#pragma omp parallel for num_threads(n_threads) schedule(static, 1) if (n_threads > 1)
    for (whole t = 0; t < n_threads; t++)
    for (whole i = part(first, n_atoms, t, n_threads),
         end = part(first, n_atoms, t + 1, n_threads); i < end; i++) {{"""
        for k in outs:
            dim, mul = self.outs[k]
            yield f"        real *out{k} = out[{k}] + i * {dim * mul};"
        yield "        for (whole e = first[i]; e < first[i + 1]; e++) {"
        yield from self._edge(slopes=False)
        for group in self.groups:
            yield from _loops(group.mul, partial(self._couple, group))
        yield "        }\n    }\n}"

    def backward(self) -> Iterator[str]:
        size = sum(self.inputs)
        yield f"""\
void {self.name}_backward(whole n_atoms, whole n_threads, const whole *first,
    const whole *neighbour, {self.arguments},
    const real *const *x, const real *const *by_out, real *by_vectors, real *by_radial, real *by_x)
{{
#pragma omp parallel for num_threads(n_threads) schedule(static, 1) if (n_threads > 1)
    for (whole t = 0; t < n_threads; t++) {{
    real *of_thread = by_x + t * n_atoms * ({size});
    for (whole i = part(first, n_atoms, t, n_threads),
         end = part(first, n_atoms, t + 1, n_threads); i < end; i++) {{"""
        for k, (dim, mul) in enumerate(self.outs):
            yield f"        const real *by_out{k} = by_out[{k}] + i * {dim * mul};"
        yield "        for (whole e = first[i]; e < first[i + 1]; e++) {"
        yield from self._edge(slopes=True)
        n_harmonics = (self.l_max + 1) ** 2
        for m in range(1, n_harmonics):
            yield f"            vec gy{m}_ = {{0}}; real gy{m} = 0;"
        if self.table:
            yield "            vec gr_ = {0}; real gr = 0;"
        for group in self.groups:
            before = sum(self.inputs[: group.source])
            start = f"of_thread + n_atoms * {before} + j * {group.dim * group.mul}"
            yield f"            real *gx{group.source} = {start};"
            yield from _loops(group.mul, partial(self._derive, group))
        for m in range(1, n_harmonics):
            yield f"            gy{m} += total(gy{m}_);"
        yield from self._to_vectors()
        yield "        }\n    }\n    }\n}"

    def _edge(self, slopes: bool) -> Iterator[str]:
        """What an edge has before any channel: harmonics, couplings, and where its weights are."""
        yield """\
            const real *vector = vectors + 3 * e;
            double v0 = vector[0], v1 = vector[1], v2 = vector[2];
            double r = sqrt(v0 * v0 + v1 * v1 + v2 * v2);
            if (r >= cutoff) continue;
            real inverse = 1 / r;
            real ux = vector[0] * inverse, uy = vector[1] * inverse, uz = vector[2] * inverse;
            whole j = neighbour[e];"""
        if self.table:
            yield _CELL.format(n_weights=self.n_weights) + (_RATE if slopes else "")
        else:
            yield f"            const real *weight = radial + e * {self.n_weights};"
            if slopes:
                yield f"            real *by_weight = by_radial + e * {self.n_weights};"
        yield f"            real y0 = 1{self._unit_harmonics()};"
        for degree, entries in enumerate(self.harmonics, start=2):
            for m in range(2 * degree + 1):
                terms = [
                    f"(real){c!r} * y{(degree - 1) ** 2 + k // 3} * u{'xyz'[k % 3]}"
                    for (k, column), c in entries.items()
                    if column == m
                ]
                yield f"            real y{degree**2 + m} = {_sum(terms)};"
        yield from self._couplings()

    def _couplings(self) -> Iterator[str]:
        """The features of the neighbour, and the harmonics' part in each coupling."""
        for group in self.groups:
            size = group.dim * group.mul
            yield f"            const real *x{group.source} = x[{group.source}] + j * {size};"
            for term in group.terms:
                for (m3, m1), sums in term.coupling.items():
                    value = _sum(f"(real){c!r} * y{m2}" for m2, c in sums)
                    yield f"            real {_name(term, m3, m1)} = {value};"

    def _unit_harmonics(self) -> str:
        if self.l_max == 0:
            return ""
        return "".join(f", y{k + 1} = (real){3**0.5!r} * u{a}" for k, a in enumerate("xyz"))

    def _weight(self, term: _Term, T: type[_Type]) -> Iterator[str]:
        if not self.table:
            yield f"{T.name} w = {T.load(f'weight + {term.weights} + c')};"
            return
        at = [f"cell + {k * self.n_weights + term.weights} + c" for k in range(6)]
        for k, place in enumerate(at):
            yield f"{T.name} k{k} = {T.load(place)};"
        yield f"{T.name} w = k0 + s * (k1 + s * (k2 + s * (k3 + s * (k4 + s * k5))));"

    def _couple(self, group: _Group, T: type[_Type]) -> Iterator[str]:
        """Add the messages of one input irrep, channel c."""
        for m1 in range(group.dim):
            yield f"{T.name} x_{m1} = {T.load(f'x{group.source} + {m1 * group.mul} + c')};"
        for term in group.terms:
            yield "{"
            yield from self._weight(term, T)
            for m1 in range(group.dim):
                yield f"{T.name} wx{m1} = w * x_{m1};"
            n_channels = self.outs[term.out][1]
            for m3 in range(term.n_out):
                parts = [
                    f"{_name(term, m3, m1)} * wx{m1}"
                    for m1 in range(group.dim)
                    if (m3, m1) in term.coupling
                ]
                place = f"out{term.out} + {m3 * n_channels + term.channels} + c"
                yield f"{T.store(place)} += {_sum(parts)};"
            yield "}"

    def _derive(self, group: _Group, T: type[_Type]) -> Iterator[str]:
        """The gradients by one input irrep, harmonics and distance or weights, channel c."""
        for m1 in range(group.dim):
            yield f"{T.name} x_{m1} = {T.load(f'x{group.source} + {m1 * group.mul} + c')};"
            yield f"{T.name} gx_{m1} = {T.zero};"
        for term in group.terms:
            yield "{"
            yield from self._weight(term, T)
            n_channels = self.outs[term.out][1]
            for m3 in range(term.n_out):
                place = f"by_out{term.out} + {m3 * n_channels + term.channels} + c"
                yield f"{T.name} g{m3} = {T.load(place)};"
            for m1 in range(group.dim):
                parts = [
                    f"{_name(term, m3, m1)} * g{m3}"
                    for m3 in range(term.n_out)
                    if (m3, m1) in term.coupling
                ]
                yield f"{T.name} s{m1} = {_sum(parts)};"
                yield f"gx_{m1} += w * s{m1};"
            dot = _sum(f"x_{m1} * s{m1}" for m1 in range(group.dim))
            if self.table:
                slope = "k1 + s * (2 * k2 + s * (3 * k3 + s * (4 * k4 + s * (5 * k5))))"
                yield f"gr{T.suffix} += ({dot}) * rate * ({slope});"
            else:
                yield f"{T.store(f'by_weight + {term.weights} + c')} = {dot};"
            yield from _by_harmonics(group, term, T)
            yield "}"
        for m1 in range(group.dim):
            place = f"gx{group.source} + {m1 * group.mul} + c"
            yield f"{T.store(place)} += gx_{m1};"

    def _to_vectors(self) -> Iterator[str]:
        """From the harmonics and the distance back to the edge vector."""
        for degree in range(self.l_max, 1, -1):
            for (k, m), c in self.harmonics[degree - 2].items():
                lower = (degree - 1) ** 2 + k // 3
                axis = "xyz"[k % 3]
                yield f"            gy{lower} += (real){c!r} * gy{degree**2 + m} * u{axis};"
        for axis in "xyz":
            terms = [f"(real){3**0.5!r} * gy{'xyz'.index(axis) + 1}"] if self.l_max else []
            for degree in range(2, self.l_max + 1):
                terms += [
                    f"(real){c!r} * gy{degree**2 + m} * y{(degree - 1) ** 2 + k // 3}"
                    for (k, m), c in self.harmonics[degree - 2].items()
                    if "xyz"[k % 3] == axis
                ]
            yield f"            real gu{axis} = {_sum(terms)};"
        yield "            real along = ux * gux + uy * guy + uz * guz;"
        radial = " + (gr + total(gr_)) * u{0}" if self.table else ""
        for k, axis in enumerate("xyz"):
            transverse = f"(gu{axis} - along * u{axis}) * inverse"
            yield f"            by_vectors[3 * e + {k}] += {transverse}{radial.format(axis)};"


class _Type:
    """How the code treats several channels at once."""

    name, suffix, zero = "vec", "_", "{0}"

    @staticmethod
    def load(place: str) -> str:
        return f"*(const loose *)({place})"

    @staticmethod
    def store(place: str) -> str:
        return f"*(loose *)({place})"


class _Single(_Type):
    """How it treats those that are left."""

    name, suffix, zero = "real", "", "0"

    @staticmethod
    def load(place: str) -> str:
        return f"*({place})"

    store = load


def _loops(n_channels: int, body: Callable[[type[_Type]], Iterator[str]]) -> Iterator[str]:
    yield "            { whole c = 0;"
    yield f"            for (; c + LANES <= {n_channels}; c += LANES) {{"
    yield from ("                " + line for line in body(_Type))
    yield "            }"
    yield f"            for (; c < {n_channels}; c++) {{"
    yield from ("                " + line for line in body(_Single))
    yield "            } }"


def _by_harmonics(group: _Group, term: _Term, T: type[_Type]) -> Iterator[str]:
    parts: dict[int, list[str]] = {}
    for (m3, m1), entries in term.coupling.items():
        for m2, c in entries:
            if m2:
                parts.setdefault(m2, []).append(f"(real){c!r} * p{m3}_{m1}")
    if not parts:
        return
    for m1 in range(group.dim):
        yield f"{T.name} wx{m1} = w * x_{m1};"
    for m3, m1 in term.coupling:
        yield f"{T.name} p{m3}_{m1} = g{m3} * wx{m1};"
    for m2, terms in parts.items():
        yield f"gy{m2}{T.suffix} += {_sum(terms)};"


def _path_coupling(ir: o3.Irrep, path: Path) -> dict[tuple[int, int], list[tuple[int, float]]]:
    coupling: dict[tuple[int, int], list[tuple[int, float]]] = {}
    symbol = path_symbol(ir, path)
    for m2, m3, m1 in symbol.nonzero().tolist():
        c = float(symbol[m2, m3, m1])
        if abs(c) > 1e-12:
            coupling.setdefault((m3, m1), []).append((path.degree**2 + m2, c))
    return coupling


def _name(term: _Term, m3: int, m1: int) -> str:
    return f"a{term.weights}_{m3}_{m1}"


def _sum(terms: Iterable[str]) -> str:
    return " + ".join(terms) or "0"


def _nonzero(matrix: Tensor) -> dict[tuple[int, int], float]:
    """The entries of a matrix that are not zero, by row and column."""
    return {
        (row, column): float(matrix[row, column])
        for row, column in matrix.nonzero().tolist()
        if abs(float(matrix[row, column])) > 1e-12
    }
