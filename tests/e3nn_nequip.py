"""An interaction layer of NequIP made of e3nn's modules, with the weights of ours."""

import math

import torch
from e3nn import o3
from torch import Tensor

from mlff2d.models.nequip import InteractionLayer, NequIPConfig
from mlff2d.nn.equivariant import IrrepsLinear
from tests.irreps import exact, flat, listed, reference_product


def reference_linear(
    linear: IrrepsLinear, irreps_in: o3.Irreps, irreps_out: o3.Irreps, x: Tensor, gain: float = 1.0
) -> Tensor:
    """e3nn's linear map with the same weights times a gain, flat."""
    with exact():
        theirs = o3.Linear(irreps_in, irreps_out, internal_weights=False, shared_weights=True)
    return gain * theirs(x, torch.cat([w.flatten() for w in linear.weights]))


def reference_connection(
    layer: InteractionLayer,
    settings: NequIPConfig,
    irreps_in: o3.Irreps,
    x: Tensor,
    one_hot: Tensor,
    embedding: Tensor,
) -> Tensor:
    """The self-connection from e3nn's modules, flat."""
    assert layer.self_connection is not None
    linear, middle = layer.self_connection.linear, layer.gate.irreps_in
    half = math.sqrt(0.5)
    if isinstance(linear, IrrepsLinear):
        return reference_linear(linear, irreps_in, middle, x, half)
    scalars = one_hot if settings.self_connection == "elements" else embedding
    with exact():
        connection = o3.FullyConnectedTensorProduct(
            irreps_in,
            f"{scalars.shape[1]}x0e",
            middle,
            internal_weights=False,
            shared_weights=True,
        )
    own = torch.cat([w.transpose(0, 1).flatten() for w in linear.weights])
    if settings.self_connection == "elements":  # e3nn counts the zeros of the one-hot element
        own = own * math.sqrt(one_hot.shape[1])
    return half * connection(x, scalars, own)


def reference_layer(
    layer: InteractionLayer,
    settings: NequIPConfig,
    irreps: tuple[o3.Irreps, o3.Irreps],
    x: Tensor,
    one_hot: Tensor,
    embedding: Tensor,
    harmonics: Tensor,
    radial: Tensor,
    edge_index: Tensor,
) -> Tensor:
    """An interaction layer from the blocks of e3nn, flat."""
    irreps_in, irreps_out = irreps
    middle = layer.gate.irreps_in
    weights = radial
    for k, linear in enumerate(layer.radial.layers):
        weights = weights @ linear.get_parameter("weight").T / math.sqrt(weights.shape[1])
        if k < len(layer.radial.layers) - 1:
            weights = torch.nn.functional.silu(weights) * 1.6765324703310907
    up = listed(reference_linear(layer.linear_in, irreps_in, irreps_in, x), irreps_in)
    message = reference_product(
        layer.product,
        irreps_in,
        settings.l_max,
        up,
        harmonics,
        weights,
        edge_index,
        settings.parity,
    )
    message = message / settings.avg_neighbors**settings.neighbor_exponent
    gain = 1.0 if layer.self_connection is None else math.sqrt(0.5)
    message = reference_linear(layer.linear_out, layer.product.irreps_out, middle, message, gain)
    if layer.self_connection is not None:
        message = message + reference_connection(layer, settings, irreps_in, x, one_hot, embedding)
    new = listed(message, middle)
    if settings.norm == "rms":
        assert layer.norm is not None
        squares = [part.square().mean(dim=(1, 2), keepdim=True) for part in new]
        root = (torch.stack(squares).mean(dim=0) + settings.norm_epsilon).sqrt()
        new = [part / root for part in new]
    out = layer.gate(new)
    if settings.residual:
        before = dict(zip([ir for _, ir in irreps_in], listed(x, irreps_in), strict=True))
        out = [
            before.get(ir, 0.0) + settings.residual * part
            for (_, ir), part in zip(irreps_out, out, strict=True)
        ]
    return flat(out)
