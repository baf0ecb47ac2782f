"""Model files of mace-torch, such as MACE-MP-0 and its kin: a whole module, pickled by torch.

The file is read without running anything in it (see `pickles`), so neither mace-torch nor trust is
needed. Understood are `MACE` and `ScaleShiftMACE` with the interaction blocks and radial functions
that the public models of energies use.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from e3nn import o3
from torch import Tensor

from mlff2d.errors import ModelFileError
from mlff2d.importers import Imported
from mlff2d.importers.mace_weights import E3NN_SILU_GAIN, our_weights
from mlff2d.importers.pickles import Inert, lookup, read_inert, state_dict_of
from mlff2d.models.mace import MACE, MACEConfig
from mlff2d.nn.pairs import AgnesiTransform, PairRepulsion
from mlff2d.potential import Potential

MODELS = ("MACE", "ScaleShiftMACE")
BLOCKS = {
    "RealAgnosticInteractionBlock": "plain",
    "RealAgnosticResidualInteractionBlock": "residual",
    "RealAgnosticDensityInteractionBlock": "density",
    "RealAgnosticDensityResidualInteractionBlock": "density_residual",
}
PARTS = {
    "node_embedding",
    "radial_embedding",
    "pair_repulsion_fn",
    "spherical_harmonics",
    "atomic_energies_fn",
    "interactions",
    "products",
    "readouts",
    "scale_shift",
}
# Settings of mace-torch that change what a model computes, and the only value known here.
USUAL = {
    "apply_cutoff": True,
    "use_so3": False,
    "use_last_readout_only": False,
    "use_agnostic_product": False,
}
_ASL = "Academic Software License (not for commercial use)"
_PUBLIC = (
    # How the names of published files begin, without dots and dashes; licence and data.
    (r"20231210mace128l0|20231203mace128l1", "MIT", "MPtrj (PBE and PBE+U)"),
    (r"macemptrj2022|maceagnesi(small|medium)", "MIT", "MPtrj (PBE and PBE+U)"),
    (r"mace(small|medium|large)densityagnesistress|macemp0b3", "MIT", "MPtrj (PBE and PBE+U)"),
    (r"macempa0", "MIT", "MPtrj, sAlex (PBE and PBE+U)"),
    (r"maceomat0", _ASL, "OMat24 (PBE and PBE+U)"),
    (r"macematpespbeomat", _ASL, "OMat24 (PBE and PBE+U), MatPES (PBE)"),
    (r"macematpesr2scanomat", _ASL, "OMat24 (PBE and PBE+U), MatPES (r2SCAN)"),
    (r"maceoff23", _ASL, "SPICE (ωB97M-D3)"),
)
_SEARCHED = 2**22  # bytes of a file that begin with the names of its classes


def recognises(path: str | Path) -> bool:
    """Whether a file holds a pickled module of mace-torch; nothing in it is run."""
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("data.pkl")]
                start = b"".join(archive.open(name).read(_SEARCHED) for name in names)
        else:
            with path.open("rb") as file:
                start = file.read(_SEARCHED)
    except (OSError, zipfile.BadZipFile):
        return False
    return b"mace.modules.models" in start


def convert(path: str | Path, head: str | None = None) -> Imported:
    """The potential in a mace-torch model file.

    Parameters
    ----------
    path
        The file, as mace-torch's training or its download of a public model writes it.
    head
        Which of several readouts, for models that were trained on several sets of data at once.

    Raises ModelFileError for a file that is none, or for a variant that is not supported.
    """
    module = read_inert(path)
    if not isinstance(module, Inert) or not module.qualified_name.startswith("mace."):
        raise ModelFileError(
            f"{path} is no mace-torch model; give the .model file that mace-torch wrote at the end "
            "of a training"
        )
    try:
        return _converted(path, module, head)
    except ModelFileError:
        raise
    except _NotSupported as error:
        raise ModelFileError(f"{path}: {error}, which mlff2d does not have") from error
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ModelFileError(
            f"{path} is no model as mace-torch 0.3 writes them: "
            + (f"it lacks {error}" if isinstance(error, KeyError) else str(error))
        ) from error


class _NotSupported(Exception):
    """A variant of the model; the message says which."""


def _converted(path: str | Path, module: Inert, head: str | None) -> Imported:
    weights = state_dict_of(module)
    _check_usual(module)
    _check_constants(weights)
    chosen, n_heads = _head(path, module, head)
    config = _config(module, weights, n_heads)
    silu_gain = float(
        lookup(module, "interactions.0.conv_tp_weights.layer0.act.cst", E3NN_SILU_GAIN)
    )
    dtype = weights["node_embedding.linear.weight"].dtype
    model = MACE(config).double()
    model.load_state_dict(our_weights(model, weights, silu_gain, chosen, n_heads), strict=True)

    def of_head(name: str, default: float) -> float:
        values = weights.get(name, torch.tensor(default)).double().reshape(-1)
        return float(values[chosen if len(values) > 1 else 0])

    energies = weights["atomic_energies_fn.atomic_energies"].double()
    energies = energies.reshape(-1, len(config.elements))
    energies = energies[chosen if len(energies) > 1 else 0] + of_head("scale_shift.shift", 0.0)
    references = dict(zip(config.elements, energies.tolist(), strict=True))
    potential = Potential(model, references, scale=of_head("scale_shift.scale", 1.0))
    card = {
        "source": f"mace-torch, {module.qualified_name.rpartition('.')[2]}",
        "file": Path(path).name,
        **_origin(Path(path)),
        "cite": "Batatia et al., NeurIPS 2022 (arXiv:2206.07697), and the paper of the weights",
    }
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise ModelFileError(
            f"{path} has weights that are NaN or infinite; its training went wrong"
        )
    if n_heads > 1:
        card["head"] = _heads(module)[chosen]
    return Imported(potential.to(dtype).eval(), card)


def _origin(path: Path) -> dict[str, str]:
    """Origin, licence and data of a file with a name under which its authors publish it."""
    name = "".join(filter(str.isalnum, path.name)).lower()  # the downloads lose their dots
    for pattern, licence, data in _PUBLIC:
        if re.match(pattern, name):
            origin = "https://github.com/ACEsuit/mace-foundations"
            return {"origin": origin, "licence": licence, "trained_on": data}
    return dict.fromkeys(("origin", "licence", "trained_on"), "unknown")


def _check_usual(module: Inert) -> None:
    """Raise _NotSupported for what ours does not have."""
    name = module.qualified_name.rpartition(".")[2]
    if name not in MODELS:
        raise _NotSupported(f"it is a {name}, not one of {' and '.join(MODELS)}")
    for setting, usual in USUAL.items():
        if lookup(module, setting, usual) != usual:
            raise _NotSupported(f"it was made with {setting} = {lookup(module, setting)}")
    unknown = set(lookup(module, "_modules")) - PARTS
    if unknown:
        raise _NotSupported(f"it has {', '.join(sorted(unknown))}")
    if lookup(module, "radial_embedding.apply_cutoff", True) is not True:
        raise _NotSupported("it was made with apply_cutoff = False")
    basis = _class(lookup(module, "radial_embedding.bessel_fn"))
    if basis != "BesselBasis":
        raise _NotSupported(f"its radial functions are {basis}, not BesselBasis")
    gates = [lookup(module, f"readouts.{k}.non_linearity.acts.0.f", None) for k in range(8)]
    for gate in gates:
        if gate is not None and not gate.qualified_name.endswith(".silu"):
            raise _NotSupported(f"its readout ends in {gate.qualified_name}, not in SiLU")
    last = list(lookup(module, "readouts._modules").values())[-1]
    if _class(last) not in ("LinearReadoutBlock", "NonLinearReadoutBlock"):
        raise _NotSupported(f"its readout is a {_class(last)}")


def _check_constants(weights: dict[str, Tensor]) -> None:
    """Raise _NotSupported where what is a constant here was trained or chosen otherwise."""
    frequencies = weights["radial_embedding.bessel_fn.bessel_weights"].double().flatten()
    orders = torch.arange(1, len(frequencies) + 1, dtype=torch.float64)
    expected = {
        "radial_embedding.bessel_fn.bessel_weights": math.pi / weights["r_max"].double() * orders,
        "radial_embedding.distance_transform.a": AgnesiTransform.A,
        "radial_embedding.distance_transform.q": AgnesiTransform.Q,
        "radial_embedding.distance_transform.p": AgnesiTransform.P,
        "pair_repulsion_fn.a_exp": PairRepulsion.POWER,
        "pair_repulsion_fn.a_prefactor": PairRepulsion.LENGTH / PairRepulsion.BOHR,
    }
    for name, value in expected.items():
        if name not in weights:
            continue
        found = weights[name].double().flatten()
        if not torch.allclose(found, torch.as_tensor(value).double().flatten(), rtol=1e-5):
            raise _NotSupported(f"its {name} were trained")


def _heads(module: Inert) -> list[str]:
    heads = lookup(module, "heads", None)
    return [str(head) for head in heads] if heads else ["default"]


def _head(path: str | Path, module: Inert, head: str | None) -> tuple[int, int]:
    """Which head, of how many."""
    heads = _heads(module)
    if head is None and len(heads) > 1:
        raise ModelFileError(f"{path} has several heads, {', '.join(heads)}; say which with --head")
    if head is not None and head not in heads:
        raise ModelFileError(f"{path} has no head {head!r}; it has {', '.join(heads)}")
    return (0 if head is None else heads.index(head)), len(heads)


def _config(module: Inert, weights: dict[str, Tensor], n_heads: int) -> MACEConfig:
    """Our settings of their model."""
    n_layers = int(weights["num_interactions"])
    interactions = [lookup(module, f"interactions.{k}") for k in range(n_layers)]
    kinds = []
    for interaction in interactions:
        if _class(interaction) not in BLOCKS:
            raise _NotSupported(f"its interaction is a {_class(interaction)}")
        kinds.append(BLOCKS[_class(interaction)])
    if len(set(kinds[1:])) > 1:
        raise _NotSupported("its interactions differ from layer to layer")
    averages = {float(lookup(interaction, "avg_num_neighbors")) for interaction in interactions}
    if len(averages) > 1:
        raise _NotSupported("its avg_num_neighbors differ from layer to layer")
    for interaction in interactions:
        features = _irreps(lookup(interaction, "node_feats_irreps"))
        if _irreps(lookup(interaction, "edge_irreps", None) or features) != features:
            raise _NotSupported("its edge_irreps are not those of its nodes")
    harmonics = _irreps(lookup(interactions[0], "edge_attrs_irreps"))
    transform = lookup(module, "radial_embedding.distance_transform", None)
    if transform is not None and _class(transform) != "AgnesiTransform":
        raise _NotSupported(f"its distances go through {_class(transform)}")
    first = "products.0.symmetric_contractions.contractions."
    orders = {n.rpartition("_")[2] for n in weights if n.startswith(first) and "U_matrix" in n}
    radial = _sizes(weights, "interactions.0.conv_tp_weights.layer")
    last = weights.get(f"readouts.{n_layers - 1}.linear_2.weight")
    return MACEConfig(
        elements=tuple(weights["atomic_numbers"].tolist()),
        cutoff=float(weights["r_max"]),
        n_layers=n_layers,
        hidden_irreps=str(_irreps(lookup(module, "products.0.linear.irreps_out"))),
        l_max=harmonics.lmax,
        correlation=max(int(order) for order in orders),
        n_bessel=len(weights["radial_embedding.bessel_fn.bessel_weights"].flatten()),
        radial_hidden=radial,
        envelope_p=int(weights["radial_embedding.cutoff_fn.p"]),
        readout_hidden=16 if last is None else last.numel() // n_heads**2,
        avg_neighbors=averages.pop(),
        first_interaction=kinds[0],
        interaction=kinds[-1],
        distance_transform="none" if transform is None else "agnesi",
        pair_repulsion="pair_repulsion_fn" in lookup(module, "_modules"),
    )


def _sizes(weights: dict[str, Tensor], start: str) -> tuple[int, ...]:
    """Hidden layers of a network of e3nn."""
    n_layers = sum(name.startswith(start) for name in weights)
    return tuple(weights[f"{start}{k}.weight"].shape[0] for k in range(1, n_layers))


def _class(module: Any) -> str:
    return module.qualified_name.rpartition(".")[2]


def _irreps(value: Any) -> o3.Irreps:
    """Irreps, which are kept as a text or as tuples within tuples."""
    if isinstance(value, str):
        return o3.Irreps(value)
    if isinstance(value, o3.Irreps):
        return value
    terms = [term.args[0] for term in value.args[0]]
    return o3.Irreps([(mul, tuple(ir.args[0])) for mul, ir in terms])
