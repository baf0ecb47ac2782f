"""Checkpoints of SevenNet (`.pth`, written by the package sevenn): settings and a state dict.

SevenNet is NequIP, usually without parity, with linear self-connections, learnt Bessel functions
and a linear readout. Park, Kim, Hwang, Han, "Scalable parallel algorithm for graph neural network
interatomic potentials in molecular dynamics simulations", J. Chem. Theory Comput. 20, 4857 (2024).
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from e3nn import o3
from torch import Tensor

from mlff2d.errors import ModelFileError
from mlff2d.importers import Imported
from mlff2d.importers.e3nn_layout import (
    InteractionWeights,
    bessel_ratio,
    fill_interaction,
    fill_mlp,
    gate_gains,
    gate_irreps,
    message_paths,
)
from mlff2d.importers.pickles import read_inert
from mlff2d.models.nequip import InteractionLayer, NequIP, NequIPConfig
from mlff2d.nn.irreps import SCALAR, irreps_set
from mlff2d.nn.mlp import MLP
from mlff2d.potential import Potential

SILU, TANH = 1.6791767923989418, 1.5937334472592695
"""By which e3nn multiplies SiLU and tanh; drawn at random there, once for all."""

_PUBLIC = {
    "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36": "SevenNet-0 (11Jul2024)",
    "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d": "SevenNet-l3i5",
}
_PLAIN_SETTINGS: dict[str, tuple[Any, str]] = {
    # What NequIP can be: the only value that is supported, and what another one means.
    "use_modality": (False, "it is a model of several data sets at once (multi-fidelity)"),
    "use_bias_in_linear": (False, "its linear maps have biases"),
    "readout_as_fcn": (False, "its energy is read by a network instead of a linear map"),
    "interaction_type": ("nequip", "its interactions are not NequIP's"),
    "act_radial": ("silu", "its radial networks have another activation than SiLU"),
}


class _NotSupported(ValueError):
    """A model that SevenNet can be and our NequIP cannot."""


@dataclass(frozen=True)
class _Layer:
    """Features before and after an interaction, and what its messages are of."""

    irreps_in: o3.Irreps
    irreps_out: o3.Irreps
    messages: set[o3.Irrep]


def recognises(path: str | Path) -> bool:
    """Whether a file is a zip archive of torch with the words of a checkpoint of SevenNet."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            content = archive.read(names[0]) if len(names) == 1 else b""
    except (OSError, zipfile.BadZipFile):
        return False
    return all(word in content for word in (b"model_state_dict", b"_type_map", b"cutoff_function"))


def convert(path: str | Path) -> Imported:
    """The potential in a checkpoint of SevenNet; no code in the file is run.

    Raises ModelFileError where the file is damaged, or holds a model that NequIP cannot be.
    """
    path = Path(path)
    content = read_inert(path)
    try:
        settings = dict(content["config"])
        state = {key: v.double() for key, v in content["model_state_dict"].items()}
        _check(settings)
        layers = _layers(settings)
        model = NequIP(_config(settings, state, layers)).double()
        _fill(model, settings, state, layers)
        scale, references = _scale_and_references(settings, state)
        potential = Potential(model, references, scale=scale)
    except _NotSupported as error:
        raise ModelFileError(
            f"{path} is a SevenNet that cannot be imported: {error}; SevenNet-0 (11Jul2024) and "
            "SevenNet-l3i5 can be"
        ) from error
    except KeyError as error:
        raise _refusal(path, f"it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise _refusal(path, str(error)) from error
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise _refusal(path, "some of its weights are NaN or infinite")
    return Imported(potential.float().eval(), _card(path, settings))


def _refusal(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(
        f"{path} is damaged or no checkpoint of SevenNet that can be imported ({reason}); "
        "SevenNet-0 (11Jul2024) and SevenNet-l3i5 can be"
    )


def _check(settings: dict[str, Any]) -> None:
    """Raise _NotSupported for settings that make another model than NequIP."""
    for key, (supported, meaning) in _PLAIN_SETTINGS.items():
        if settings.get(key, supported) != supported:
            raise _NotSupported(meaning)
    if not settings.get("_normalize_sph", _version(settings) >= (0, 10)):
        raise _NotSupported("its spherical harmonics are those of vectors that are not of length 1")
    for key in ("act_scalar", "act_gate"):
        if {"e": "silu", "o": "tanh", **settings.get(key, {})} != {"e": "silu", "o": "tanh"}:
            raise _NotSupported("its gates have other activations than SiLU and tanh")
    if len(set(_self_connections(settings))) != 1:
        raise _NotSupported("its layers have self-connections of different kinds")


def _version(settings: dict[str, Any]) -> tuple[int, int]:
    major, minor = settings["version"].split(".")[:2]
    return int(major), int(minor)


def _self_connections(settings: dict[str, Any]) -> list[str]:
    kind = settings.get("self_connection_type", "nequip")
    return [kind] if isinstance(kind, str) else list(kind)


def _l_max(settings: dict[str, Any], which: str) -> int:
    """Of the harmonics (lmax_edge) or the features (lmax_node)."""
    special: int = settings.get(which, -1)
    return special if special > 0 else int(settings["lmax"])


def _layers(settings: dict[str, Any]) -> list[_Layer]:
    """The layers there, with irreps as given or every one that couplings reach."""
    n_layers = settings["num_convolution_layer"]
    l_edge, parity = _l_max(settings, "lmax_edge"), settings["is_parity"]
    manual, channels = settings.get("irreps_manual", False), settings["channel"]
    given = [o3.Irreps(text) for text in manual] if manual else None
    irreps_in = given[0] if given else o3.Irreps([(channels, SCALAR)])
    layers = []
    for k in range(n_layers):
        harmonics = o3.Irreps.spherical_harmonics(l_edge, p=-1 if parity else 1)
        reached = {out for _, a in irreps_in for _, b in harmonics for out in a * b}
        last = k == n_layers - 1
        if last:
            reached = {ir for ir in reached if ir.p > 0}
        l_max = 0 if last else _l_max(settings, "lmax_node")
        inferred = [(channels, ir) for ir in sorted(reached) if ir.l <= l_max]
        out = given[k + 1] if given else o3.Irreps(inferred)
        layers.append(_Layer(irreps_in, out, {ir for ir in reached if ir.l <= out.lmax}))
        irreps_in = out
    return layers


def _hidden_irreps(layers: list[_Layer], l_max: int, parity: bool) -> o3.Irreps:
    """All irreps from which couplings lead to the energy. Raises ValueError for uneven layers."""
    vector = -1 if parity else 1
    hidden: dict[o3.Irrep, int] = {}
    needed = {SCALAR}
    for layer in reversed(layers):
        for mul, ir in layer.irreps_out:
            if ir in needed and hidden.setdefault(ir, mul) != mul:
                raise ValueError(f"its layers differ in the number of features {ir}")
        harmonics = [o3.Irrep(degree, vector**degree) for degree in range(l_max + 1)]
        needed = {ir for out in needed for y in harmonics for ir in out * y}
    return o3.Irreps([(mul, ir) for ir, mul in hidden.items()]).regroup()


def _config(
    settings: dict[str, Any], state: dict[str, Tensor], layers: list[_Layer]
) -> NequIPConfig:
    """Our settings. Raises ValueError for what NequIP cannot be."""
    l_max, parity = _l_max(settings, "lmax_edge"), bool(settings["is_parity"])
    hidden = _hidden_irreps(layers, l_max, parity)
    basis, cutoff_function = settings["radial_basis"], settings["cutoff_function"]
    if basis["radial_basis_name"] != "bessel":
        raise ValueError(f"its radial basis is {basis['radial_basis_name']!r}, not 'bessel'")
    switch = cutoff_function["cutoff_function_name"]
    if switch not in ("poly_cut", "XPLOR"):
        raise ValueError(f"its cutoff function is {switch!r}, not 'poly_cut' or 'XPLOR'")
    config = NequIPConfig(
        elements=tuple(sorted(settings["_type_map"])),
        cutoff=float(settings["cutoff"]),
        n_layers=len(layers),
        hidden_irreps=str(hidden),
        l_max=l_max,
        parity=parity,
        embedding_channels=layers[0].irreps_in.dim,
        n_bessel=basis.get("bessel_basis_num", 8),
        trainable_bessel="edge_embedding.basis_function.coeffs" in state,
        radial_hidden=tuple(settings["weight_nn_hidden_neurons"]),
        envelope_p=cutoff_function.get("poly_cut_p_value", 6) if switch == "poly_cut" else 6,
        switch_start=float(cutoff_function["cutoff_on"]) if switch == "XPLOR" else 0.0,
        avg_neighbors=float(state["0_convolution.denominator"]),
        neighbor_exponent=1.0,
        self_connection={"linear": "linear", "nequip": "elements"}[_self_connections(settings)[0]],
        readout_hidden=(),
    )
    for layer, ours in zip(layers, config.layer_irreps(), strict=True):
        if not irreps_set(ours) <= irreps_set(layer.irreps_out):
            raise ValueError(f"one of its layers has only {layer.irreps_out} of {hidden}")
    return config


def _fill(
    model: NequIP, settings: dict[str, Any], state: dict[str, Tensor], layers: list[_Layer]
) -> None:
    """Write the weights into the model."""
    config, types = model.config, settings["_type_map"]
    order = torch.tensor([types[z] for z in config.elements])
    n_types = len(types)
    with torch.no_grad():
        embedding = state["onehot_to_feature_x.linear.weight"].view(n_types, -1)
        model.embedding.copy_(embedding[order] / math.sqrt(n_types))
        if config.trainable_bessel:
            waves = state["edge_embedding.basis_function.coeffs"]
            model.basis.bessel.orders.copy_(waves * (config.cutoff / math.pi))
    gains: dict[o3.Irrep, float] = {}
    for k, (ours, layer) in enumerate(zip(model.layers, layers, strict=True)):
        assert isinstance(ours, InteractionLayer)
        sorted_weights = _version(settings) >= (0, 11) and not settings["version"].endswith("dev0")
        paths = message_paths(
            layer.irreps_in, config.l_max, layer.messages, config.parity, sorted_weights
        )
        radial = _radial(state, k, len(config.radial_hidden) + 1)
        radial[0] = radial[0] * bessel_ratio(config.cutoff, 2.0 / config.cutoff)
        radial[-1] = radial[-1] * _signs(state, k, paths)
        intro = f"{k}_self_connection_intro"
        if config.self_connection == "linear":
            n_attributes, self_connection = 0, state[f"{intro}.linear.weight"]
        else:
            n_attributes = n_types
            weight = state[f"{intro}.fc_tensor_product.weight"]
            self_connection = _by_element(weight, layer, order)
        weights = InteractionWeights(
            irreps_in=layer.irreps_in,
            irreps_out=layer.irreps_out,
            paths=paths,
            linear_in=state[f"{k}_self_interaction_1.linear.weight"],
            linear_out=state[f"{k}_self_interaction_2.linear.weight"],
            radial=radial,
            self_connection=self_connection,
            n_attributes=n_attributes,
            message_scale=1.0 / float(state[f"{k}_convolution.denominator"]),
        )
        fill_interaction(ours, weights, gains)
        gains = gate_gains(layer.irreps_out, SILU, TANH)
    first = state["reduce_input_to_hidden.linear.weight"].view(model.n_features, -1)
    second = state["reduce_hidden_to_energy.linear.weight"].view(-1, 1)
    readout = first @ second / math.sqrt(first.numel())
    assert isinstance(model.readout, MLP)
    fill_mlp(model.readout, [readout * gains[SCALAR]])


def _radial(state: dict[str, Tensor], k: int, n: int) -> list[Tensor]:
    """Plain matrices of an `e3nn.nn.FullyConnectedNet`, with an unscaled SiLU between them."""
    matrices = []
    for i in range(n):
        weight = state[f"{k}_convolution.weight_nn.layer{i}.weight"]
        matrices.append(weight * ((SILU if i else 1.0) / math.sqrt(weight.shape[0])))
    return matrices


def _signs(state: dict[str, Tensor], k: int, paths: list[Any]) -> Tensor:
    """1 or -1 for each radial weight: 3j symbols of old versions of e3nn may be of other sign."""
    signs = []
    for ir, degree, out, mul in paths:
        name = f"_w3j_{ir.l}_{degree}_{out.l}"
        stored = state.get(f"{k}_convolution.convolution._compiled_main_left_right.{name}")
        sign = 1.0
        if stored is not None:
            symbol = o3.wigner_3j(ir.l, degree, out.l, dtype=torch.float64)
            sign = float((stored * symbol).sum())
            if abs(abs(sign) - 1.0) > 1e-4:
                raise ValueError(f"its coupling coefficients {name} are not e3nn's")
        signs.append(torch.full((mul,), math.copysign(1.0, sign), dtype=torch.float64))
    return torch.cat(signs)


def _by_element(weight: Tensor, layer: _Layer, order: Tensor) -> Tensor:
    """Flat weights of the product with the one-hot element, elements in another order."""
    weight, parts, start = weight.flatten(), [], 0
    for mul_in, ir in layer.irreps_in:
        for mul_out, other in gate_irreps(layer.irreps_out):
            if ir == other:
                n = mul_in * len(order) * mul_out
                block = weight[start : start + n].view(mul_in, len(order), mul_out)
                parts.append(block.index_select(1, order).flatten())
                start += n
    return torch.cat(parts)


def _scale_and_references(
    settings: dict[str, Any], state: dict[str, Tensor]
) -> tuple[float, dict[int, float]]:
    """eV for one unit of the output, and what is added for each element."""
    scales, shifts = (state[f"rescale_atomic_energy.{name}"] for name in ("scale", "shift"))
    if float(scales.max()) != float(scales.min()):
        raise ValueError("its energies are scaled differently for each element")
    types = settings["_type_map"]
    shifts = shifts.expand(len(types))
    return float(scales.max()), {z: float(shifts[types[z]]) for z in sorted(types)}


def _card(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    name = _PUBLIC.get(hashlib.sha256(path.read_bytes()).hexdigest())
    return {
        "source": f"SevenNet (sevenn {settings['version']}), {name or path.name}",
        "origin": "https://github.com/MDIL-SNU/SevenNet" if name else "unknown",
        "licence": "MIT" if name else "unknown",
        "trained_on": "MPtrj (PBE and PBE+U)" if name else "unknown",
        "cite": "Park et al., J. Chem. Theory Comput. 20, 4857 (2024)",
    }
