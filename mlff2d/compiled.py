"""Potentials by compiled code, where that is to be had and gives the same numbers.

What is compiled is C, in about a second, once for an architecture: it is kept for all processes of
a user (`mlff2d.nn.kernels.compiler.cache_folder`). Models without such code, devices other than
CPUs and machines without a C compiler compute by operations of torch. Training has compiled code
for the sums over neighbours alone, of which it needs second derivatives.
"""

from __future__ import annotations

import warnings
from copy import deepcopy

import torch
from torch import Tensor

from mlff2d.graph import Graph
from mlff2d.models.base import EnergyModel
from mlff2d.neighbors import neighbor_list
from mlff2d.nn.kernels.compiler import CompilerError
from mlff2d.nn.kernels.trainable import compile_product
from mlff2d.nn.tensor_product import NeighbourTensorProduct
from mlff2d.potential import Potential

CHOICES = ("auto", "yes", "no")
"""What users may say: try without a word, try and say so where it cannot be, or do not."""

_FACTOR = 10.0
"""Times the error of torch's float32 that compiled float32 may have on the test slab..."""

_FLOOR = {torch.float32: 1e-6, torch.float64: 1e-10}
"""...beside this part of the greatest number."""


def use_compiled_code(potential: Potential, compile: str = "auto") -> None:
    """Have a potential in evaluation mode use compiled code, or with "no" use none.

    `compile` is one of `CHOICES`. Gives a warning of one sentence where compiled code fails its
    test, and with "yes" wherever there is none. Raises ValueError for another choice.
    """
    if compile not in CHOICES:
        raise ValueError(f"compile is 'auto', 'yes' or 'no', not {compile!r}")
    if compile == "no":
        potential.model.compiled = None
    if compile == "no" or potential.model.compiled is not None:
        return
    try:
        if (device := next(potential.parameters()).device.type) != "cpu":
            raise CompilerError(f"there is no compiled code for {device}, only for CPUs")
        potential.model.compile_sums()
    except CompilerError as error:
        if compile == "yes":
            warnings.warn(f"{error}; mlff2d computes without compiled code", stacklevel=3)
        return
    if not is_same(potential):
        potential.model.compiled = None
        warnings.warn(
            "compiled code gave other numbers than torch on a test slab; mlff2d computes without "
            "it (delete the folder of compiled code, or see whether the compiler is damaged)",
            stacklevel=3,
        )


def train_compiled(model: EnergyModel, dtype: torch.dtype) -> bool:
    """Have a model that will be trained use compiled code in its sums over neighbours.

    Whether it does: on CPUs, for models with such sums (nequip, mace), where there is a compiler.
    Where compiled code fails its test, a warning of one sentence says so.
    """
    products = [m for m in model.modules() if isinstance(m, NeighbourTensorProduct)]
    try:
        for product in products:
            compile_product(product, dtype)
    except CompilerError as error:
        for product in products:
            product.compiled = None
        if "other numbers" in str(error):
            warnings.warn(f"{error}; mlff2d trains without it", stacklevel=2)
        return False
    return bool(products)


def is_same(potential: Potential) -> bool:
    """Whether compiled code gives a test slab the numbers that operations of torch do."""
    graph = _slab(potential)
    by_torch = deepcopy(potential)
    by_torch.model.compiled = None
    found = _numbers(potential, graph)
    expected = _numbers(by_torch, graph)
    exact = expected
    if potential.dtype == torch.float32:
        exact = _numbers(by_torch.double(), graph)
    return all(
        bool(
            (f - x).abs().max()
            <= _FACTOR * (e - x).abs().max() + _FLOOR[potential.dtype] * x.abs().max()
        )
        for f, e, x in zip(found, expected, exact, strict=True)
    )


def _numbers(potential: Potential, graph: Graph) -> list[Tensor]:
    prediction = potential(graph, create_graph=False)
    own = prediction.energies - potential.references(graph.z)
    return [own.double(), prediction.forces.double(), prediction.virial.double()]


def _slab(potential: Potential) -> Graph:
    """Twelve atoms of up to five elements in three layers, none where symmetry would have it."""
    known = potential.elements
    z = torch.tensor([known[k * len(known) // 5] for k in range(5)] * 3)[:12]
    grid = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0), torch.arange(3.0)).double()
    pos = grid * torch.tensor([2.6, 2.4, 1.9]) + 0.3 * torch.sin(7.0 * torch.arange(36.0)).view(
        12, 3
    )
    cell = torch.tensor([[5.3, 0.0, 0.0], [0.7, 5.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    pbc = torch.tensor([True, True, False])
    # Some edges are beyond the cutoff, as in lists with a skin.
    edges = neighbor_list(pos.numpy(), cell.numpy(), pbc.numpy(), potential.cutoff + 0.3)
    return Graph(
        z=z,
        pos=pos,
        cell=cell[None],
        pbc=pbc[None],
        edge_index=torch.from_numpy(edges[0]),
        edge_shift=torch.from_numpy(edges[1]),
        batch=torch.zeros_like(z),
    )
