"""Potentials of matgl: a folder with `model.json`, `model.pt` and `state.pt`, read for M3GNet.

Ko et al., "Materials Graph Library (MatGL), an open-source graph deep learning library for
materials science and chemistry", npj Comput. Mater. 11, 253 (2025). The settings are taken from the
JSON, the weights from `state.pt`, which holds nothing but tensors; `model.pt` is not opened.

Two things in matgl changed while its files stayed the same:

* Until version 2 an edge's message went to its far end, away from the atom that its three-body
  sums are about; since version 3 it goes to the near end. Weights of the one are wrong for the
  other, and matgl from version 3 on gives wrong energies for its own older files. These are told
  by a buffer that versions before 4 wrote; of a file of version 3, which has it too, nothing tells.
* Before version 4.1 the three-body sums of an edge were added to another edge, by which one
  depended on the order of the edges in memory, wherever one was longer than the three-body cutoff.
  Here they go where they belong, as in matgl now; this changes about 0.1 meV/atom.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers
from torch import Tensor

from mlff2d.errors import ModelFileError
from mlff2d.importers import Imported
from mlff2d.importers.pickles import check_archive
from mlff2d.models.m3gnet import M3GNet, M3GNetConfig
from mlff2d.potential import Potential

_ONLY = {
    "is_intensive": False,
    "include_state": False,
    "rbf_type": "SphericalBessel",
    "use_phi": False,
    "activation_type": "swish",
    "task_type": "regression",
    "ntargets": 1,
}
"""Settings of matgl's M3GNet of which ours knows one value."""

_NAMES = (
    # Parts of names in matgl, and what they are called here; both perceptrons of a gated one have
    # their activations numbered among their layers there.
    (r"^embedding\.layer_node_embedding\.", "embedding."),
    (r"^embedding\.layer_edge_embedding\.layers\.0\.", "edge_embedding."),
    (r"^final_layer\.gated\.", "readout."),
    (
        r"^three_body_interactions\.(\d+)\.update_network_atom\.layers\.0\.",
        r"blocks.\1.threebody_weight.",
    ),
    (r"^three_body_interactions\.(\d+)\.update_network_bond\.", r"blocks.\1.threebody_update."),
    (r"^graph_layers\.(\d+)\.conv\.(edge|node)_(update|weight)_func\.", r"blocks.\1.\2_\3."),
)
_DATA = {
    # Parts of the names of the folders that matgl publishes, and what they were trained on.
    "MatPES-PBE": "MatPES (PBE)",
    "MatPES-r2SCAN": "MatPES (r2SCAN)",
    "MP-2021": "MPF.2021.2.8 (PBE and PBE+U)",
}


def recognises(path: str | Path) -> bool:
    """Whether a folder holds what matgl saves of a model, of whatever kind or damaged."""
    path = Path(path)
    if not (path / "model.json").is_file() or not (path / "state.pt").is_file():
        return False
    try:
        return str(_settings(path).get("@module", "")).startswith("matgl.")
    except ModelFileError:
        return True  # to be told of it


def convert(path: str | Path) -> Imported:
    """The M3GNet potential in a folder of matgl.

    Raises ModelFileError where the folder is damaged, or holds another model than an M3GNet
    potential whose settings ours has too.
    """
    path = Path(path)
    settings, state = _settings(path), _state(path)
    own = _m3gnet_settings(path, settings)
    try:
        far_end = "element_refs.onehot" in state
        config = m3gnet_config(own, far_end)
        weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        model = M3GNet(config).to(state["data_std"].dtype)
        model.load_state_dict(m3gnet_weights(weights, own, far_end))
        potential = Potential(model, _references(state, own), scale=float(state["data_std"]))
    except KeyError as error:
        raise _damaged(path, f"it has no {error}") from error
    except RuntimeError as error:  # of load_state_dict, over many lines
        raise _damaged(path, "its weights do not fit its settings") from error
    except (ValueError, TypeError, IndexError) as error:
        raise _damaged(path, str(error)) from error
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise _damaged(path, "some of its weights are NaN or infinite")
    return Imported(potential.eval(), _card(path, far_end))


def m3gnet_config(settings: Mapping[str, Any], far_end: bool) -> M3GNetConfig:
    """Our settings for those of matgl's M3GNet.

    `far_end` tells that its messages went to the far end of an edge, as before version 3. Raises
    KeyError for a setting that is missing and ValueError for values that make no model.
    """
    channels = settings["dim_node_embedding"]
    if settings["dim_edge_embedding"] != channels:
        raise ValueError("its atoms and edges have different numbers of features")
    return M3GNetConfig(
        elements=tuple(sorted(atomic_numbers[symbol] for symbol in settings["element_types"])),
        cutoff=settings["cutoff"],
        threebody_cutoff=settings["threebody_cutoff"],
        n_radial=settings["max_n"],
        max_l=settings["max_l"],
        channels=channels,
        n_blocks=settings["nblocks"],
        depth=3,
        hidden=settings["units"],
        smooth=settings["use_smooth"],
        smooth_threebody=settings["use_smooth"],
        threebody_center="neighbour" if far_end else "receiver",
    )


def m3gnet_weights(
    weights: Mapping[str, Tensor], settings: Mapping[str, Any], far_end: bool
) -> dict[str, Tensor]:
    """The weights of matgl's M3GNet under our names and for our functions.

    Our radial and three-body functions are sqrt(c^3 / 3) and sqrt(4 pi c^3 / 3) times matgl's, c
    the cutoff. `far_end` is as for `m3gnet_config`: the receiver of a message was the second atom
    there, it is the first one here.
    """
    channels = settings["dim_node_embedding"]
    radial = math.sqrt(settings["cutoff"] ** 3 / 3.0)
    threebody = radial * math.sqrt(4.0 * math.pi)
    order = sorted(
        range(len(settings["element_types"])),
        key=lambda k: atomic_numbers[settings["element_types"][k]],
    )
    result = {}
    for their_name, weight in weights.items():
        if their_name.endswith(".cutoff"):  # a setting
            continue
        name = their_name
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        name = re.sub(r"\b(layers|gates)\.(\d+)", lambda m: f"{m[1]}.{int(m[2]) // 2}", name)
        if name == "embedding.weight":
            weight = weight[order]
        elif re.search(r"(edge|node)_weight\.weight|edge_embedding\.weight", name):
            weight = weight / radial
        elif re.search(r"threebody_update\.(layers|gates)\.0", name):
            weight = weight / threebody
        elif far_end and re.search(r"(edge|node)_update\.(layers|gates)\.0\.weight", name):
            first, second, edge = weight.split(channels, dim=1)
            weight = torch.cat([second, first, edge], dim=1)
        result[name] = weight
    return result


def _damaged(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(
        f"{path} is damaged or no M3GNet of matgl that can be imported ({reason}); get the folder "
        "again from materialsvirtuallab/matgl"
    )


def _settings(path: Path) -> dict[str, Any]:
    """What model.json says."""
    try:
        settings = json.loads((path / "model.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(f"{path / 'model.json'} cannot be read ({error.strerror})") from error
    except ValueError as error:  # also of a text that is not UTF-8
        raise _damaged(path, "model.json is not JSON") from error
    if not isinstance(settings, dict):
        raise _damaged(path, "model.json holds no settings")
    return settings


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors of state.pt by their names."""
    try:
        check_archive(path / "state.pt")
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelFileError(f"{path / 'state.pt'} cannot be read ({error.strerror})") from error
    except ModelFileError:
        raise
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise _damaged(path, "state.pt is no file of tensors") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _damaged(path, "state.pt is no file of tensors")
    return state


def _m3gnet_settings(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the M3GNet in a potential, or ModelFileError."""
    kwargs = settings.get("kwargs")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    model = kwargs.get("model")
    if settings.get("@class") != "Potential" or not isinstance(model, dict):
        raise ModelFileError(
            f"{path} holds matgl's {settings.get('@class')}; only potentials with M3GNet are "
            "imported"
        )
    if model.get("@class") != "M3GNet":
        raise ModelFileError(
            f"{path} holds a potential of matgl with {model.get('@class')}; only those with "
            "M3GNet are imported"
        )
    if kwargs.get("calc_repuls"):
        raise ModelFileError(
            f"{path} adds matgl's repulsion of nuclei to M3GNet, which is not supported; import a "
            "potential without (calc_repuls false)"
        )
    own = model.get("init_args")
    if not isinstance(own, dict):
        raise _damaged(path, "model.json has no settings of the M3GNet")
    for name, value in _ONLY.items():
        if own.get(name) != value:
            raise ModelFileError(
                f"{path} has an M3GNet with {name} {own.get(name)!r}, which is not supported; "
                f"import one with {value!r}"
            )
    return own


def _references(state: dict[str, Tensor], own: dict[str, Any]) -> dict[int, float]:
    """Energies of the elements by atomic number."""
    if float(state["data_mean"]) != 0.0:
        raise ValueError("it adds a constant to the energy of a structure, however large")
    offsets = state["element_refs.property_offset"]
    symbols = own["element_types"]
    if offsets.shape != (len(symbols),):
        raise ValueError(f"{tuple(offsets.shape)} energies for {len(symbols)} elements")
    return {atomic_numbers[s]: float(e) for s, e in zip(symbols, offsets, strict=True)}


def _card(path: Path, far_end: bool) -> dict[str, Any]:
    name = path.resolve().name
    data = [full for part, full in _DATA.items() if part in name]
    return {
        "source": f"matgl, {name}",
        "origin": "https://github.com/materialsvirtuallab/matgl" if data else "unknown",
        "licence": "BSD-3-Clause" if data else "unknown",
        "trained_on": data[0] if data else "unknown",
        "cite": "Chen and Ong, Nat. Comput. Sci. 2, 718 (2022); Ko et al., npj Comput. Mater. 11, "
        "253 (2025)",
        "read_as": f"trained with matgl {'before version 3' if far_end else '3 or later'}",
    }
