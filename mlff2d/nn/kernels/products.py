"""MACE's update of an atom by compiled code: products of its summed messages, and maps around them.

A linear map of messages, perhaps one of the atom's element, the symmetric contraction, a linear
map, the layer's input times a matrix of the element, and the linear map that the next layer begins
with.

Axes: N atoms, Z elements, C channels, K and L coupled and made irreps, T monomials.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mlff2d.nn.equivariant import ElementLinear, IrrepsLinear
from mlff2d.nn.kernels.compiler import CompilerError
from mlff2d.nn.kernels.update import Atoms, Update, chosen, panels, pointer, pointers, term_pointers
from mlff2d.nn.symmetric_contraction import SymmetricContraction

SOURCE = (Path(__file__).parent / "products.c").read_text(encoding="utf-8")

_WIDTH = 16
"""WIDTH of the C code."""

_MAX_BYTES = 2**29
"""Memory that the polynomials of a layer may take."""

Matrices = list[Tensor | None]

# Of `layer` in the C code.
_NUMBERS = ("channels", "n_coupled", "n_made", "n_rows", "n_components", "n_stages", "n_monomials")
_TABLES = ("coupled", "made", "stages", "monomials", "ends", "polynomials")
_MAPS = ("linear", "mixing", "connection", "out", "after")


class _Layer(ctypes.Structure):
    """`layer` of the C code."""

    _fields_: ClassVar = [
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in (*_TABLES, *_MAPS)),
    ]


@dataclass(frozen=True)
class _Tables:
    """What the C code reads.

    Attributes
    ----------
    coupled : (K, 2) int64
        2l + 1, and the channels of messages.
    made : (L, 2) int64
        2l + 1, and the channels of the input, 0 where it lacks the irrep.
    stages, monomials : (S or T, 2) int32
        Pairs of factors.
    ends : (rows,) int32
        Where the monomials of a made component end.
    polynomials : (Z, C / 16, T, 16)
        Coefficients of the monomials.
    """

    coupled: Tensor
    made: Tensor
    stages: Tensor
    monomials: Tensor
    ends: Tensor
    polynomials: Tensor


@dataclass(frozen=True)
class ProductUpdate(Update):
    """The update of one layer of MACE; make it with `of`.

    Attributes
    ----------
    channels
        C.
    maps, by_maps
        Matrices of all irreps, packed: of messages, of coupled features (Z of them), of the input
        (Z), of products, and of the outcome; and the transposed ones. None for what there is not.
    sources
        For each made irrep the term of the input that is mapped; None where it lacks the irrep.
    """

    tables: _Tables
    channels: int
    maps: list[Matrices]
    by_maps: list[Matrices]
    sources: list[int | None]
    is_read: bool = True

    source: ClassVar[str] = SOURCE

    @classmethod
    def of(
        cls,
        linear: IrrepsLinear,
        scale: float,
        mixing: ElementLinear | None,
        contraction: SymmetricContraction,
        out: IrrepsLinear,
        connection: ElementLinear | None,
        following: IrrepsLinear | None,
    ) -> ProductUpdate:
        """Fold the weights of a layer.

        Parameters
        ----------
        linear, scale
            The map of messages, and what these are multiplied with.
        mixing
            After that, a map of the atom's element.
        contraction
            After that.
        out
            After that.
        connection
            The map of the input that is added.
        following
            The map that the next layer begins with.

        Raises CompilerError where the polynomials would take too much memory.
        """
        dtype = linear.weights[0].dtype
        n_coupled, n_made = len(linear.sources), len(out.sources)
        messages: Matrices = [matrix * scale for matrix in linear.matrices()]
        inputs = _by_term(connection, n_made)
        parts: list[Matrices] = [
            messages,
            _by_term(mixing, n_coupled),
            inputs,
            _by_term(out, n_made),
            _by_term(following, n_made),
        ]
        matrices = [[None if m is None else m.to(dtype) for m in own] for own in parts]
        return cls(
            _tables(contraction, messages, inputs, dtype),
            contraction.channels,
            [[None if m is None else panels(m) for m in own] for own in matrices],
            [[None if m is None else panels(m.mT) for m in own] for own in matrices],
            [None] * n_made if connection is None else list(connection.sources),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: own for key, own in self.__dict__.items() if key != "layers"}

    @cached_property
    def layers(self) -> tuple[tuple[_Layer, Any], tuple[_Layer, Any]]:
        """`layer` of the C code, forward and backward, and the arrays in it; of a copy, others."""
        tables = self.tables
        found = []
        for maps in (self.maps, self.by_maps):
            arrays = [pointers(own) for own in maps]
            layer = _Layer(
                self.channels,
                len(tables.coupled),
                len(tables.made),
                len(tables.ends),
                int(tables.coupled[:, 0].sum()),
                len(tables.stages),
                len(tables.monomials),
                *(getattr(tables, name).data_ptr() for name in _TABLES),
                *(ctypes.addressof(array) for array in arrays),
            )
            found.append((layer, arrays))
        return found[0], found[1]

    @property
    def sizes(self) -> list[int]:
        """Numbers of an atom in each term of the outcome."""
        return [dim * self.channels for dim in self.tables.made[:, 0].tolist()]

    @property
    def n_coupled(self) -> list[int]:
        """Numbers of an atom in each coupled term."""
        return [dim * self.channels for dim in self.tables.coupled[:, 0].tolist()]

    def forward(
        self, atoms: Atoms, m: Any, inputs: Sequence[int], scale: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `Update`; what is kept are the coupled features."""
        polynomials = self.tables.polynomials
        coupled = polynomials.new_empty(atoms.n * sum(self.n_coupled))
        out = polynomials.new_empty(atoms.n * sum(self.sizes))
        after = None if self.maps[-1][0] is None else torch.empty_like(out)
        workspace = self._workspace(atoms)
        atoms.library.products_forward(
            *self._common(atoms, 0, scale),
            m,
            chosen(inputs, self.sources),
            term_pointers(coupled, atoms.n, self.n_coupled),
            term_pointers(out, atoms.n, self.sizes),
            term_pointers(after, atoms.n, self.sizes),
            pointer(workspace),
        )
        return coupled, out, after

    def backward(
        self,
        atoms: Atoms,
        saved: Tensor,
        scale: Tensor | None,
        by_out: Tensor,
        by_y: Tensor | None,
        by_m: Any,
        by_inputs: Sequence[int],
        by_scale: Tensor | None,
    ) -> None:
        """See `Update`."""
        workspace = self._workspace(atoms)
        atoms.library.products_backward(
            *self._common(atoms, 1, scale),
            term_pointers(saved, atoms.n, self.n_coupled),
            term_pointers(by_out, atoms.n, self.sizes),
            term_pointers(by_y, atoms.n, self.sizes),
            by_m,
            chosen(by_inputs, self.sources),
            pointer(by_scale),
            pointer(workspace),
        )

    def _common(self, atoms: Atoms, way: int, scale: Tensor | None) -> tuple[Any, ...]:
        return (
            ctypes.byref(self.layers[way][0]),
            ctypes.c_int64(atoms.n),
            ctypes.c_int64(atoms.n_threads),
            pointer(atoms.element),
            pointer(scale),
        )

    def _workspace(self, atoms: Atoms) -> Tensor:
        size = atoms.library.products_workspace
        size.restype = ctypes.c_int64
        number = size(ctypes.byref(self.layers[0][0]))
        return self.tables.polynomials.new_empty(atoms.n_threads * number)


def _by_term(linear: IrrepsLinear | ElementLinear | None, n_terms: int) -> Matrices:
    """Matrices of all output irreps, None for those that the input lacks."""
    if linear is None:
        return [None] * n_terms
    found = iter(linear.matrices())
    return [None if source is None else next(found) for source in linear.sources]


def _tables(
    contraction: SymmetricContraction, messages: Matrices, inputs: Matrices, dtype: torch.dtype
) -> _Tables:
    polynomials = contraction.polynomials()
    channels, n_elements = contraction.channels, len(contraction.weights[0])
    n_chunks, n_monomials = -(-channels // _WIDTH), len(polynomials.monomials)
    if n_elements * n_chunks * _WIDTH * n_monomials * dtype.itemsize > _MAX_BYTES:
        raise CompilerError(
            f"compiled products of {n_monomials} monomials for {n_elements} elements would take "
            f"more than {_MAX_BYTES // 2**20} MiB"
        )
    padded = torch.zeros(n_elements, n_monomials, n_chunks * _WIDTH, dtype=dtype)
    begin = 0
    for part in contraction.coefficients():
        padded[:, begin : begin + part.shape[1], :channels] = part
        begin += part.shape[1]
    padded = padded.view(n_elements, n_monomials, n_chunks, _WIDTH).transpose(1, 2)
    n_messages, n_inputs = (
        [0 if m is None else m.shape[-2] for m in own] for own in (messages, inputs)
    )
    return _Tables(
        torch.tensor(list(zip(contraction.dims_in, n_messages, strict=True))),
        torch.tensor(list(zip(contraction.dims, n_inputs, strict=True))),
        polynomials.stages.int().contiguous(),
        polynomials.monomials.int().contiguous(),
        polynomials.ends.int(),
        padded.contiguous(),
    )
