"""The weights of a mace-torch model, by their names there, as those of ours.

mace-torch's product basis is redundant: it couples A with itself in every way, and forms that
differ only in the order of their factors have weights of their own. Ours has one weight for each
independent form; the coefficients, which mace-torch keeps among its buffers, say which forms of
ours make up each of theirs. So any basis that a file brings is understood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from e3nn import o3
from torch import Tensor

from mlff2d.importers.e3nn_layout import attribute_matrices, linear_matrices, message_paths
from mlff2d.models.mace import MACE, MACELayer
from mlff2d.nn.irreps import SCALAR, irreps_set
from mlff2d.nn.mlp import MLP, SILU_GAIN
from mlff2d.nn.symmetric_tables import Irreps, projected

E3NN_SILU_GAIN = 1.6791767923989418
"""By how much e3nn scales SiLU: from a random sample, and so not quite SILU_GAIN."""

Weights = Mapping[str, Tensor]


def our_weights(
    model: MACE,
    theirs: Weights,
    silu_gain: float = E3NN_SILU_GAIN,
    head: int = 0,
    n_heads: int = 1,
) -> dict[str, Tensor]:
    """The state dict of our model, in float64.

    Parameters
    ----------
    model
        Of the same settings.
    theirs
        State dict of a `mace.modules.MACE` or `ScaleShiftMACE`.
    silu_gain
        By how much its networks scale SiLU.
    head, n_heads
        Which of how many sets of readouts.

    Raises ValueError or KeyError where the weights do not fit the settings.
    """
    theirs = {name: w.double() if w.is_floating_point() else w for name, w in theirs.items()}
    n_elements, channels = model.embedding.shape
    embedding = theirs["node_embedding.linear.weight"].view(n_elements, channels)
    found = {"embedding": embedding / math.sqrt(n_elements)}
    for k, layer in enumerate(model.layers):
        assert isinstance(layer, MACELayer)
        for name, weight in _layer(model, layer, theirs, k, silu_gain).items():
            found[f"layers.{k}.{name}"] = weight
    for name, weight in _readout(model, theirs, silu_gain, head, n_heads).items():
        found[f"readout.layers.{name}"] = weight
    return found


def _layer(
    model: MACE, layer: MACELayer, theirs: Weights, k: int, silu_gain: float
) -> dict[str, Tensor]:
    """The weights of layer k."""
    config = model.config
    n_elements, channels = len(config.elements), config.channels
    coupled = o3.Irreps([(channels, (deg, (-1) ** deg)) for deg in range(config.l_max + 1)])
    inputs, outputs, interaction = layer.irreps_in, layer.irreps_out, f"interactions.{k}."
    paths = message_paths(inputs, config.l_max, irreps_set(coupled), by_output=True)
    messages = o3.Irreps([(mul, out) for _, _, out, mul in paths])

    found: dict[str, Tensor] = {}
    for module, name, irreps_in, irreps_out, used in [
        ("linear_in", interaction + "linear_up", inputs, inputs, inputs),
        ("linear_message", interaction + "linear", messages, coupled, layer.coupled),
        ("linear_out", f"products.{k}.linear", outputs, outputs, outputs),
    ]:
        plain = linear_matrices(theirs[name + ".weight"], irreps_in, irreps_out)
        found |= _scaled(module, getattr(layer, module).factors, plain, used)
    skip = theirs[interaction + "skip_tp.weight"]
    if layer.self_connection is not None:
        plain = attribute_matrices(skip, inputs, n_elements, outputs)
        found |= _scaled("self_connection", layer.self_connection.factors, plain, outputs)
    if layer.element_linear is not None:
        plain = attribute_matrices(skip, coupled, n_elements, coupled)
        found |= _scaled("element_linear", layer.element_linear.factors, plain, layer.coupled)

    radial = _networks(theirs, interaction + "conv_tp_weights.layer", silu_gain)
    starts = {path[:3]: channels * n for n, path in enumerate(paths)}
    columns = [starts[inputs[p.source].ir, p.degree, p.out] for p in layer.product.paths]
    chosen = torch.cat([torch.arange(start, start + channels) for start in columns])
    radial[-1] = radial[-1].index_select(1, chosen)
    radial[0] = radial[0] / model.radial_scale
    found |= _mlp("radial", layer.radial, radial)
    if layer.density is not None:
        density = _networks(theirs, interaction + "density_fn.layer", silu_gain)
        density[0] = density[0] / model.radial_scale
        found |= _mlp("density", layer.density, density)
    for j, weight in enumerate(_contraction(layer, theirs, coupled, k)):
        found[f"contraction.weights.{j}"] = weight
    return found


def _contraction(layer: MACELayer, theirs: Weights, coupled: o3.Irreps, k: int) -> list[Tensor]:
    """(n_elements, K, C) weights of the forms that lead to each output irrep."""
    kept: Irreps = tuple(ir for _, ir in layer.coupled)
    components = torch.cat(
        [torch.arange(ir.l**2, (ir.l + 1) ** 2) for _, ir in coupled if ir in kept]
    )
    start = f"products.{k}.symmetric_contractions.contractions."
    names = list(
        dict.fromkeys(n[len(start) :].split(".")[0] for n in theirs if n.startswith(start))
    )
    if len(names) != len(layer.irreps_out):
        raise ValueError(f"{len(names)} products are given where {len(layer.irreps_out)} are made")
    found = []
    for name, factor, (_, irrep) in zip(
        names, layer.contraction.factors, layer.irreps_out, strict=True
    ):
        parts = []
        for degree in range(1, layer.contraction.correlation + 1):
            table = theirs[f"{start}{name}.U_matrix_{degree}"]
            table = table.reshape(irrep.dim, *[sum(ir.dim for _, ir in coupled)] * degree, -1)
            for axis in range(1, degree + 1):
                table = table.index_select(axis, components)
            above = layer.contraction.correlation - degree
            part = "weights_max" if above == 0 else f"weights.{above - 1}"
            mix = torch.from_numpy(projected(table.numpy(), kept, irrep))
            parts.append(torch.einsum("kj,zjc->zkc", mix, theirs[f"{start}{name}.{part}"]))
        found.append(torch.cat(parts, dim=1) / factor)
    return found


def _readout(
    model: MACE, theirs: Weights, silu_gain: float, head: int, n_heads: int
) -> dict[str, Tensor]:
    """The weights of the readouts of one head."""
    config, found = model.config, {}
    heads = o3.Irreps([(n_heads, SCALAR)])
    n_linear = max(config.n_layers - 1, 1)
    for k in range(n_linear):
        irreps_in = model.layers[k].irreps_out
        plain = linear_matrices(theirs[f"readouts.{k}.linear.weight"], irreps_in, heads)[SCALAR]
        factor = float(model.readout.layers[k].factor)  # type: ignore[arg-type]
        found[f"{k}.weight"] = plain[:, head : head + 1].T / factor
    if config.n_layers > n_linear:
        k, width = n_linear, config.readout_hidden
        scalars, hidden = model.layers[k].irreps_out, o3.Irreps([(n_heads * width, SCALAR)])
        first = linear_matrices(theirs[f"readouts.{k}.linear_1.weight"], scalars, hidden)[SCALAR]
        second = linear_matrices(theirs[f"readouts.{k}.linear_2.weight"], hidden, heads)[SCALAR]
        mine = slice(head * width, (head + 1) * width)
        matrices = [first[:, mine], silu_gain * second[mine, head : head + 1]]
        found |= _mlp(str(k), model.readout.layers[k], matrices)
    return found


def _scaled(
    module: str, factors: list[float], plain: dict[o3.Irrep, Tensor], used: o3.Irreps
) -> dict[str, Tensor]:
    """Plain matrices as the weights of a module which multiplies with its factors."""
    irreps = [ir for _, ir in used if ir in plain]
    return {
        f"{module}.weights.{j}": plain[ir] / factor
        for j, (ir, factor) in enumerate(zip(irreps, factors, strict=True))
    }


def _networks(theirs: Weights, start: str, silu_gain: float) -> list[Tensor]:
    """Plain matrices (C_in, C_out) of a network of e3nn, which has unscaled SiLU between them."""
    layers = [theirs[f"{start}{n}.weight"] for n in range(_count(theirs, start))]
    plain = [weight / math.sqrt(weight.shape[0]) for weight in layers]
    return [matrix * silu_gain if n else matrix for n, matrix in enumerate(plain)]


def _mlp(module: str, mlp: MLP, matrices: list[Tensor]) -> dict[str, Tensor]:
    """Plain matrices as the weights of an MLP, which scales the SiLU between them."""
    if len(matrices) != len(mlp.layers):
        raise ValueError(f"{len(matrices)} layers are given where the model has {len(mlp.layers)}")
    factors = [float(layer.factor) for layer in mlp.layers]  # type: ignore[arg-type]
    return {
        f"{module}.layers.{n}.weight": matrix.T / (factor * (SILU_GAIN if n else 1.0))
        for n, (factor, matrix) in enumerate(zip(factors, matrices, strict=True))
    }


def _count(theirs: Weights, start: str) -> int:
    return sum(name.startswith(start) for name in theirs)
