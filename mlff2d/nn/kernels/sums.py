"""Layers of a model by compiled code: sums of messages over neighbours, and what follows.

Axes: N atoms, E edges, W radial weights, C channels.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlff2d.graph import Graph
from mlff2d.nn.kernels.compiler import CompilerError, load_library
from mlff2d.nn.kernels.source import functions, library
from mlff2d.nn.kernels.table import RadialTable, RadialWeights, radial_table
from mlff2d.nn.kernels.update import MATRIX, Update, pointer
from mlff2d.nn.tensor_product import NeighbourTensorProduct

_REAL = {torch.float32: "float", torch.float64: "double"}

_EDGES_PER_THREAD = 500
"""Below, starting a thread costs more than it saves."""


@dataclass(frozen=True)
class SumLayer:
    """The sum of one tensor product.

    Attributes
    ----------
    name
        Of its functions.
    inputs
        (2l + 1) C of all input terms.
    shapes
        (2l + 1, C) of the output terms.
    table
        Of radial weights; None where the weights of each edge are given.
    """

    name: str
    inputs: list[int]
    shapes: list[tuple[int, int]]
    table: RadialTable | None


class CompiledSums:
    """All layers of a model, in one library.

    They are for the weights that the model had when this was made, where these are tabulated or
    folded, for one precision, on a CPU, and for edges whose receivers ascend; `bind` says no to
    anything else. It lives on in copies and pickles, where the library is looked up, or compiled,
    when it is first used.
    """

    def __init__(
        self,
        text: str,
        layers: list[SumLayer],
        updates: list[Update],
        parameters: list[Tensor],
        cutoff: float,
        dtype: torch.dtype,
    ) -> None:
        self._text = text
        self.layers = layers
        self.updates = updates
        self._parameters = parameters
        self._cutoff = cutoff
        self._dtype = dtype
        self._mark = _mark(parameters)
        self._versions: list[int] | None = None
        self._library: ctypes.CDLL | None = None

    @classmethod
    def of(
        cls,
        products: Sequence[NeighbourTensorProduct],
        updates: Sequence[Update],
        radials: Sequence[nn.Module] | None,
        cutoff: float,
        parameters: Sequence[Tensor],
    ) -> CompiledSums:
        """Compile the layers of a model.

        In float32 the radial weights come from tables, where these err by less than rounding does.

        Parameters
        ----------
        products
            What each layer sums.
        updates
            What each makes of the sums.
        radials
            For each what makes radial weights (K, W) of distances (K,), zero from the cutoff on;
            None where these depend on more.
        cutoff
            In Å.
        parameters
            Those of the model.

        Raises CompilerError where nothing can be compiled.
        """
        dtype = parameters[0].dtype
        if dtype not in _REAL:
            raise CompilerError(f"there is no compiled code for {dtype}")
        tables: list[RadialTable | None] = [None] * len(products)
        if radials is not None and dtype == torch.float32:
            tables = [radial_table(_in_precision(radial), cutoff) for radial in radials]
        tabulated = None not in tables
        layers = []
        texts: dict[str, str] = {}
        for product, table in zip(products, tables, strict=True):
            body = functions(product, "NAME", tabulated)
            layers.append(
                SumLayer(
                    name=texts.setdefault(body, f"sum{len(texts)}"),
                    inputs=[term.dim for term in product.irreps_in],
                    shapes=[(ir.dim, mul) for mul, ir in product.irreps_out],
                    table=table if tabulated else None,
                )
            )
        bodies = [body.replace("NAME", name) for body, name in texts.items()]
        own = {update.source: None for update in updates}
        text = library([*bodies, MATRIX, *own], _REAL[dtype])
        sums = cls(text, layers, list(updates), list(parameters), cutoff, dtype)
        sums._library = load_library(sums._text)
        return sums

    @property
    def tabulated(self) -> bool:
        """Whether radial weights come from tables."""
        return self.layers[0].table is not None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_library": None, "_versions": None}

    def bind(self, graph: Graph, edge_vec: Tensor) -> BoundSums | None:
        """The sums over the edges of a graph, with vectors (E, 3); None where not made for it."""
        if edge_vec.dtype != self._dtype or edge_vec.device.type != "cpu":
            return None
        if torch.is_autocast_enabled("cpu") or not self._is_valid():
            return None
        assert self._library is not None
        edge_index = graph.edge_index.contiguous()
        first = torch.empty(graph.n_atoms + 1, dtype=torch.int64)
        size = ctypes.c_int64(graph.n_edges), ctypes.c_int64(graph.n_atoms)
        if not self._library.rows(*size, pointer(edge_index), pointer(first)):
            return None
        return BoundSums(self, self._library, edge_index[1], first, edge_vec.contiguous())

    def _is_valid(self) -> bool:
        if any(p.requires_grad for p in self._parameters):
            return False
        versions = [p._version for p in self._parameters]
        if self._versions is None and _mark(self._parameters) == self._mark:
            self._versions = versions
        if versions != self._versions:
            return False
        if self._library is None:
            try:
                self._library = load_library(self._text)
            except CompilerError as error:  # unpickled on another machine
                self._mark = torch.nan
                self._versions = None
                warnings.warn(f"{error}; mlff2d computes without compiled code", stacklevel=2)
        return self._library is not None


@dataclass(frozen=True)
class BoundSums:
    """`CompiledSums` over certain edges."""

    sums: CompiledSums
    library: ctypes.CDLL
    neighbour: Tensor  # (E,)
    first: Tensor  # (N + 1,), where the edges of each atom begin
    edge_vec: Tensor  # (E, 3)

    @property
    def tabulated(self) -> bool:
        """Whether radial weights come from tables."""
        return self.sums.tabulated

    @property
    def n_atoms(self) -> int:
        """N."""
        return self.first.shape[0] - 1

    @property
    def n_threads(self) -> int:
        """Threads worth starting."""
        return max(1, min(torch.get_num_threads(), self.neighbour.shape[0] // _EDGES_PER_THREAD))

    def run(self, name: str, n_threads: int, radial: Tensor, scale: float, *rest: Any) -> None:
        """Call one of the functions of `mlff2d.nn.kernels.source.library`."""
        getattr(self.library, name)(
            ctypes.c_int64(self.n_atoms),
            ctypes.c_int64(n_threads),
            pointer(self.first),
            pointer(self.neighbour),
            pointer(self.edge_vec),
            pointer(radial),
            ctypes.c_double(scale),
            ctypes.c_double(self.sums._cutoff),
            *rest,
        )


def radial_of(layer: SumLayer, weights: Tensor | None) -> tuple[Tensor, float]:
    """Radial weights as the functions take them: a table and its scale, or those of each edge."""
    if layer.table is not None:
        return layer.table.cells, layer.table.scale
    assert weights is not None
    return weights, 0.0


def _in_precision(module: nn.Module) -> Callable[[torch.dtype], RadialWeights]:
    return lambda dtype: deepcopy(module).to(dtype).requires_grad_(False)


def _mark(parameters: Sequence[Tensor]) -> float:
    """A number that changes when parameters do."""
    return sum(float(p.detach().double().square().sum()) for p in parameters)
