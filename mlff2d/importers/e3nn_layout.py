"""Weights of e3nn's modules, in e3nn's order and norms, turned into ours.

A module of e3nn keeps its weights in one flat array, term after term of its irreps, and multiplies
with factors of its own when it uses them. Here they first become plain matrices, which map channels
to channels as they stand, one for each irrep; the terms of one irrep are joined in their order.
`fill_mlp` and `fill_interaction` write plain matrices into modules of ours, whose factors they
divide out.

Every function raises ValueError where arrays and irreps do not fit together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from e3nn import o3
from torch import Tensor, nn

from mlff2d.models.nequip import InteractionLayer
from mlff2d.nn.irreps import SCALAR, irreps_set
from mlff2d.nn.mlp import MLP, SILU_GAIN, TANH_GAIN

MessagePath = tuple[o3.Irrep, int, o3.Irrep, int]
"""Irrep of the neighbour's feature, degree of the harmonics, irrep of the message, channels."""


@dataclass(frozen=True)
class InteractionWeights:
    """An interaction layer of a NequIP elsewhere, its features in the order that they have there.

    Attributes
    ----------
    irreps_in, irreps_out : features before the layer and after its gate, each irrep once
    paths : order of the radial weights, from `message_paths`
    linear_in, linear_out : flat weights of `e3nn.o3.Linear`
    radial : plain matrices (C_in, C_out) with an unscaled SiLU between them
    self_connection : flat weights of `e3nn.o3.Linear`, or with `n_attributes` of
        `e3nn.o3.FullyConnectedTensorProduct`; None where there is none
    n_attributes : number of scalars that the features are multiplied with there; 0 for none
    message_scale : what the sum over neighbours is multiplied with
    norm : scales of the channels of each term of `gate_irreps(irreps_out)`, None without norm
    norm_counts : how much the mean square of each irrep counts in the norm there, where all count
        1 here; only those other than 1
    """

    irreps_in: o3.Irreps
    irreps_out: o3.Irreps
    paths: list[MessagePath]
    linear_in: Tensor
    linear_out: Tensor
    radial: list[Tensor]
    self_connection: Tensor | None
    n_attributes: int
    message_scale: float
    norm: list[Tensor] | None = None
    norm_counts: Mapping[o3.Irrep, float] = field(default_factory=dict)

    def size(self, ir: o3.Irrep) -> float:
        """What features must be multiplied with in front of the norm to count as much here."""
        return math.sqrt(self.norm_counts.get(ir, 1.0)) if self.norm is not None else 1.0


def linear_matrices(
    weight: Tensor, irreps_in: o3.Irreps, irreps_out: o3.Irreps
) -> dict[o3.Irrep, Tensor]:
    """Plain matrices (C_in, C_out), by irrep, of the flat weights of an `e3nn.o3.Linear`."""
    terms = [
        (i, k) for i, a in enumerate(irreps_in) for k, b in enumerate(irreps_out) if _same(a, b)
    ]
    blocks = _blocks(weight, [(irreps_in[i].mul, irreps_out[k].mul) for i, k in terms])
    by_term = dict(zip(terms, blocks, strict=True))
    return _joined(by_term, irreps_in, irreps_out, 1)


def attribute_matrices(
    weight: Tensor, irreps_in: o3.Irreps, n_attributes: int, irreps_out: o3.Irreps
) -> dict[o3.Irrep, Tensor]:
    """Plain matrices (K, C_in, C_out), by irrep, of the product with K scalars.

    `weight` is that of an `e3nn.o3.FullyConnectedTensorProduct(irreps_in, "Kx0e", irreps_out)`.
    """
    terms = [
        (i, k) for i, a in enumerate(irreps_in) for k, b in enumerate(irreps_out) if _same(a, b)
    ]
    shapes = [(irreps_in[i].mul, n_attributes, irreps_out[k].mul) for i, k in terms]
    blocks = [block.transpose(0, 1) for block in _blocks(weight, shapes)]
    by_term = dict(zip(terms, blocks, strict=True))
    return _joined(by_term, irreps_in, irreps_out, n_attributes)


def message_paths(
    irreps_in: o3.Irreps,
    l_max: int,
    wanted: Collection[o3.Irrep],
    parity: bool = True,
    by_output: bool = False,
) -> list[MessagePath]:
    """The couplings of a NequIP elsewhere in the order of its radial weights.

    By input irrep, degree and output irrep; or `by_output` first, as some sort them.
    """
    vector = -1 if parity else 1
    paths = [
        (ir, degree, out, mul)
        for mul, ir in irreps_in
        for degree in range(l_max + 1)
        for out in ir * o3.Irrep(degree, vector**degree)
        if out in wanted
    ]
    return sorted(paths, key=lambda path: path[2]) if by_output else paths


def gate_irreps(irreps_out: o3.Irreps) -> o3.Irreps:
    """What goes into an `e3nn.nn.Gate` with this output, sorted as it is there.

    The 0e that stay come before those that gate, and these in the order of `irreps_out`.
    """
    n_gates = sum(mul for mul, ir in irreps_out if ir.l > 0)
    return (irreps_out + o3.Irreps([(n_gates, SCALAR)] if n_gates else [])).regroup()


def gate_gains(irreps: o3.Irreps, silu: float, tanh: float = TANH_GAIN) -> dict[o3.Irrep, float]:
    """How much greater each irrep is behind a gate elsewhere, which scales SiLU and tanh so.

    Both aim at a second moment of 1, e3nn by a random sample: its factors are off by 1e-3.
    """
    odd = o3.Irrep("0o")
    return {ir: tanh / TANH_GAIN if ir == odd else silu / SILU_GAIN for _, ir in irreps}


def bessel_ratio(cutoff: float, prefactor: float) -> float:
    """How much greater prefactor sin(n pi r / c) / r is than our basis function."""
    return prefactor / (cutoff * math.sqrt(2.0 / 3.0))


def fill_mlp(mlp: MLP, matrices: Sequence[Tensor]) -> None:
    """Write plain matrices (C_in, C_out) with an unscaled SiLU between them into an MLP."""
    if len(matrices) != len(mlp.layers):
        raise ValueError(f"{len(matrices)} layers are given where the model has {len(mlp.layers)}")
    for k, (layer, matrix) in enumerate(zip(mlp.layers, matrices, strict=True)):
        # Ours scales the SiLU in front of every layer but the first.
        factor = float(layer.factor) * (SILU_GAIN if k else 1.0)  # type: ignore[arg-type]
        _assign(layer.get_parameter("weight"), matrix.T / factor)


def fill_interaction(
    layer: InteractionLayer, theirs: InteractionWeights, gains: Mapping[o3.Irrep, float]
) -> None:
    """Write an interaction layer's weights into ours.

    `gains` says how much greater each irrep of the input is there than here. Irreps that ours
    leaves out, because they cannot reach the energy, are dropped.
    """
    linear_in = linear_matrices(theirs.linear_in, theirs.irreps_in, theirs.irreps_in)
    ours_in = [ir for _, ir in layer.irreps_in]
    for weight, factor, ir in zip(
        layer.linear_in.weights, layer.linear_in.factors, ours_in, strict=True
    ):
        _assign(weight, _get(linear_in, ir) * (gains.get(ir, 1.0) / factor))

    ours = [
        (layer.irreps_in[p.source].ir, p.degree, p.out, layer.irreps_in[p.source].mul)
        for p in layer.product.paths
    ]
    columns = _channels([(p[:3], p[3]) for p in theirs.paths], [(p[:3], p[3]) for p in ours])
    fill_mlp(layer.radial, [*theirs.radial[:-1], theirs.radial[-1].index_select(1, columns)])

    middle = o3.Irreps([(mul, out) for _, _, out, mul in theirs.paths]).regroup()
    linear_out = linear_matrices(theirs.linear_out, middle, gate_irreps(theirs.irreps_out))
    channels = _gate_channels(theirs.irreps_out, layer)
    ratio = theirs.message_scale / layer.message_scale
    for weight, factor, (_, ir) in zip(
        layer.linear_out.weights, layer.linear_out.factors, layer.gate.irreps_in, strict=True
    ):
        rows = _channels(
            [(p[:2], p[3]) for p in theirs.paths if p[2] == ir],
            [(p[:2], p[3]) for p in ours if p[2] == ir],
        )
        matrix = _get(linear_out, ir).index_select(0, rows).index_select(1, channels[ir])
        _assign(weight, matrix * (theirs.size(ir) * ratio / factor))
    _fill_self_connection(layer, theirs, gains, channels)
    _fill_norm(layer, theirs, channels)


def _fill_self_connection(
    layer: InteractionLayer,
    theirs: InteractionWeights,
    gains: Mapping[o3.Irrep, float],
    channels: dict[o3.Irrep, Tensor],
) -> None:
    if (layer.self_connection is None) != (theirs.self_connection is None):
        raise ValueError("only one of the two models has a self-connection in a layer")
    if layer.self_connection is None or theirs.self_connection is None:
        return
    linear = layer.self_connection.linear
    gate, n = gate_irreps(theirs.irreps_out), theirs.n_attributes
    if n:
        matrices = attribute_matrices(theirs.self_connection, theirs.irreps_in, n, gate)
    else:
        matrices = linear_matrices(theirs.self_connection, theirs.irreps_in, gate)
    known = irreps_set(layer.irreps_in)
    common = [ir for _, ir in layer.gate.irreps_in if ir in known]
    for weight, factor, ir in zip(linear.weights, linear.factors, common, strict=True):
        matrix = _get(matrices, ir).index_select(-1, channels[ir])
        _assign(weight, matrix * (theirs.size(ir) * gains.get(ir, 1.0) / factor))


def _fill_norm(
    layer: InteractionLayer, theirs: InteractionWeights, channels: dict[o3.Irrep, Tensor]
) -> None:
    if (layer.norm is None) != (theirs.norm is None):
        raise ValueError("only one of the two models has a norm in a layer")
    if layer.norm is None or theirs.norm is None:
        return
    for weight, (_, ir) in zip(layer.norm.weights, layer.gate.irreps_in, strict=True):
        terms = zip(theirs.norm, gate_irreps(theirs.irreps_out), strict=True)
        scales = torch.cat([scale for scale, (_, other) in terms if other == ir])
        _assign(weight, scales.index_select(0, channels[ir]) / theirs.size(ir))


def _gate_channels(irreps_out: o3.Irreps, layer: InteractionLayer) -> dict[o3.Irrep, Tensor]:
    """Where ours finds its channels in front of the gate among theirs, by irrep."""
    segments = []
    for irreps in (irreps_out, layer.gate.irreps_out):
        by_irrep: dict[o3.Irrep, list[tuple[Hashable, int]]] = {
            ir: [(ir, mul)] for mul, ir in irreps
        }
        by_irrep.setdefault(SCALAR, []).extend(
            (("gate", ir), mul) for mul, ir in irreps if ir.l > 0
        )
        segments.append(by_irrep)
    theirs, ours = segments
    return {ir: _channels(theirs.get(ir, []), parts) for ir, parts in ours.items()}


def _channels(
    theirs: Sequence[tuple[Hashable, int]], ours: Sequence[tuple[Hashable, int]]
) -> Tensor:
    """Numbers of their channels in our order; both as segments of a key and a length."""
    found: dict[Hashable, tuple[int, int]] = {}
    start = 0
    for key, n in theirs:
        if key in found:
            raise ValueError(f"{key} occurs twice")
        found[key] = (start, n)
        start += n
    picked = []
    for key, n in ours:
        first, there = found.get(key, (0, 0))
        if there != n:
            raise ValueError(f"{key} has {there} channels where the model has {n}")
        picked.append(torch.arange(first, first + n))
    return torch.cat(picked) if picked else torch.zeros(0, dtype=torch.int64)


def _same(a: tuple[int, o3.Irrep], b: tuple[int, o3.Irrep]) -> bool:
    return a[1] == b[1]


def _blocks(weight: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in shapes]
    if weight.numel() != sum(sizes):
        raise ValueError(f"{weight.numel()} weights are given where {sum(sizes)} are needed")
    parts = weight.flatten().split(sizes)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _joined(
    blocks: dict[tuple[int, int], Tensor],
    irreps_in: o3.Irreps,
    irreps_out: o3.Irreps,
    n_attributes: int,
) -> dict[o3.Irrep, Tensor]:
    """Blocks (..., C_in, C_out) of pairs of terms -> one matrix for each irrep, norms applied."""
    matrices = {}
    for ir in irreps_set(irreps_in) & irreps_set(irreps_out):
        rows = [i for i, (_, other) in enumerate(irreps_in) if other == ir]
        columns = [k for k, (_, other) in enumerate(irreps_out) if other == ir]
        matrix = torch.cat(
            [torch.cat([blocks[i, k] for k in columns], dim=-1) for i in rows], dim=-2
        )
        matrices[ir] = matrix / math.sqrt(matrix.shape[-2] * n_attributes)
    return matrices


def _get(matrices: dict[o3.Irrep, Tensor], ir: o3.Irrep) -> Tensor:
    if ir not in matrices:
        raise ValueError(f"there is no matrix for {ir}")
    return matrices[ir]


def _assign(parameter: nn.Parameter | Tensor, value: Tensor) -> None:
    if parameter.shape != value.shape:
        raise ValueError(f"{tuple(value.shape)} weights do not fit {tuple(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(value)
