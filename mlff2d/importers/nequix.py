"""Checkpoints of nequix (`.nqx`): a line of JSON with the settings, then the weights as arrays.

nequix is NequIP with a norm before each gate, one linear map for the self-connections of all
elements, and one-hot elements in the place of learnt vectors. Koker, Kotak, Smidt, "Training a
foundation model for materials on a budget", arXiv:2508.16067; Koker et al., "PFT: phonon
fine-tuning for machine learned interatomic potentials", arXiv:2601.07742.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
from mlff2d.models.nequip import InteractionLayer, NequIP, NequIPConfig
from mlff2d.nn.irreps import SCALAR, irreps_set
from mlff2d.potential import Potential

_LONGEST_HEADER = 1 << 20
_DATA_SETS = {
    # Words in a header's file names, and the data that they stand for.
    ("omat", "oam"): "OMat24",
    ("salex", "oam"): "sAlex",
    ("mptrj", "oam"): "MPtrj",
    ("phonon",): "MDR Phonon",
}

_PUBLIC = re.compile(r"nequix-(mp|omat|oam)-\d")
"""How the files begin that its authors publish; others have other origins and licences."""


class _Unsupported(ValueError):
    """A model that nequix can be and our NequIP cannot."""


@dataclass(frozen=True)
class _Layer:
    """Features before and after a layer, and the paths of its messages in the file's order."""

    irreps_in: o3.Irreps
    irreps_out: o3.Irreps
    paths: list[tuple[o3.Irrep, int, o3.Irrep, int]]


def recognises(path: str | Path) -> bool:
    """Whether a file is named or begins like a checkpoint of nequix."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix == ".nqx":
        return True
    try:
        header, _ = _split(path)
    except ModelFileError:
        return False
    return {"hidden_irreps", "atom_energies", "avg_n_neighbors"} <= header.keys()


def convert(path: str | Path) -> Imported:
    """The potential in a `.nqx` file, in the file's precision.

    Raises ModelFileError where the file is damaged, or holds a model that NequIP cannot be.
    """
    path = Path(path)
    header, rest = _split(path)
    try:
        config = _config(header)
        layers = _layers(header)
        stored = _arrays(path, rest)
        arrays = (array.double() for array in stored)
        references = _references(header, next(arrays))
        model = NequIP(config).double()
        _fill(model, layers, arrays)
        if next(arrays, None) is not None:
            raise ValueError("it holds more arrays than its settings ask for")
        potential = Potential(model, references, scale=float(header["scale"]))
    except _Unsupported as error:
        raise ModelFileError(
            f"{path} is a checkpoint of nequix with {error}, which cannot be imported"
        ) from error
    except StopIteration:
        raise _damaged(path, "it holds fewer arrays than its settings ask for") from None
    except KeyError as error:
        raise _damaged(path, f"its settings lack {error}") from error
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise _damaged(path, str(error)) from error
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise _damaged(path, "some of its weights are NaN or infinite")
    return Imported(potential.to(stored[0].dtype).eval(), _card(path, header))


def _damaged(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(
        f"{path} is damaged or no checkpoint of nequix ({reason}); get the file again from "
        "atomicarchitects/nequix"
    )


def _split(path: Path) -> tuple[dict[str, Any], bytes]:
    """The settings in the first line, and what follows it."""
    try:
        with path.open("rb") as file:
            line = file.readline(_LONGEST_HEADER)
            header = json.loads(line) if line.startswith(b"{") else None
            rest = file.read()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # also of a text that is not UTF-8
        raise _damaged(path, "its first line is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "it does not begin with its settings")
    return header, rest


def _arrays(path: Path, content: bytes) -> list[Tensor]:
    """The arrays that follow each other in a file."""
    if content.startswith(b"PK"):
        raise ModelFileError(
            f"{path} is nequix's copy of a checkpoint for PyTorch; import the .nqx file"
        )
    file = io.BytesIO(content)
    arrays: list[Tensor] = []
    while file.tell() < len(content):
        try:
            array = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError, MemoryError) as error:
            raise _damaged(path, f"array {len(arrays)} cannot be read") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise _damaged(path, f"array {len(arrays)} holds no numbers")
        arrays.append(torch.from_numpy(array))
    return arrays


def _config(header: dict[str, Any]) -> NequIPConfig:
    if header["index_weights"]:
        raise _Unsupported("self-connections that differ by element")
    power = header["radial_polynomial_p"]
    if power != int(power):
        raise _Unsupported(f"an envelope with the exponent {power}, which is no whole number")
    return NequIPConfig(
        elements=tuple(header["atomic_numbers"]),
        cutoff=header["cutoff"],
        n_layers=header["n_layers"],
        hidden_irreps=header["hidden_irreps"],
        l_max=header["lmax"],
        embedding_channels=len(header["atomic_numbers"]),
        n_bessel=header["radial_basis_size"],
        radial_hidden=(header["radial_mlp_size"],) * header["radial_mlp_layers"],
        envelope_p=int(power),
        avg_neighbors=header["avg_n_neighbors"],
        norm="rms" if header["layer_norm"] else "none",
        norm_epsilon=1e-12,
        self_connection="linear",
        readout_hidden=(),
    )


def _layers(header: dict[str, Any]) -> list[_Layer]:
    """The layers there; raises ValueError for irreps whose order is not known."""
    hidden = o3.Irreps(header["hidden_irreps"])
    natural = [(degree, (-1) ** degree) for degree in range(len(hidden))]
    if [(ir.l, ir.p) for _, ir in hidden] != natural:
        raise _Unsupported(f"the irreps {hidden}, which are not 0e+1o+2e+...")
    layers = []
    irreps_in = o3.Irreps([(len(header["atomic_numbers"]), SCALAR)])
    for k in range(header["n_layers"]):
        last = k == header["n_layers"] - 1
        out = o3.Irreps([hidden[0]]) if last else hidden
        paths = message_paths(irreps_in, header["lmax"], irreps_set(out), by_output=True)
        layers.append(_Layer(irreps_in, out, paths))
        irreps_in = out
    return layers


def _references(header: dict[str, Any], stored: Tensor) -> dict[int, float]:
    """Energies of single atoms and the shift, by atomic number."""
    numbers = header["atomic_numbers"]
    energies = [float(header["atom_energies"][str(z)]) for z in numbers]
    if not torch.allclose(stored, torch.tensor(energies, dtype=torch.float64), atol=1e-4):
        raise ValueError("its energies of single atoms differ from those in its settings")
    return {z: e + float(header["shift"]) for z, e in zip(numbers, energies, strict=True)}


def _fill(model: NequIP, layers: list[_Layer], arrays: Iterator[Tensor]) -> None:
    """Write the weights, in the order of the file, into the model."""
    config = model.config
    with torch.no_grad():
        model.embedding.copy_(torch.eye(len(config.elements)))
    silu = _silu_gain()
    gains: dict[o3.Irrep, float] = {}
    for ours, layer in zip(model.layers, layers, strict=True):
        assert isinstance(ours, InteractionLayer)
        if irreps_set(ours.gate.irreps_out) != irreps_set(layer.irreps_out):
            raise _Unsupported(f"irreps {layer.irreps_out}, some of which cannot reach the energy")
        # Linear maps have one array for each irrep that goes in and comes out.
        n_in, n_out = len(layer.irreps_in), len(layer.irreps_out)
        radial = [next(arrays) for _ in range(len(config.radial_hidden) + 1)]
        radial[0] = radial[0] * bessel_ratio(config.cutoff, 2.0 / config.cutoff)
        weights = InteractionWeights(
            irreps_in=layer.irreps_in,
            irreps_out=layer.irreps_out,
            paths=layer.paths,
            radial=radial,
            linear_in=_flat(arrays, n_in),
            linear_out=_flat(arrays, len({path[2] for path in layer.paths})),
            self_connection=_flat(arrays, min(n_in, n_out)),
            n_attributes=0,
            message_scale=config.avg_neighbors**-0.5,
            norm=_norm(arrays, layer) if config.norm == "rms" else None,
            # It sums squares over channels where it means to take their mean, and the reverse for
            # the components.
            norm_counts={ir: mul / ir.dim for mul, ir in gate_irreps(layer.irreps_out)},
        )
        fill_interaction(ours, weights, gains)
        gains = gate_gains(layer.irreps_out, silu)
    last = next(arrays)
    fill_mlp(model.readout, [last * (gains[SCALAR] / last.shape[0] ** 0.5)])


def _flat(arrays: Iterator[Tensor], n: int) -> Tensor:
    return torch.cat([next(arrays).flatten() for _ in range(n)])


def _norm(arrays: Iterator[Tensor], layer: _Layer) -> list[Tensor]:
    return [next(arrays) for _ in gate_irreps(layer.irreps_out)]


def _silu_gain() -> float:
    """1 / sqrt(mean silu(z)^2) over a million quantiles of the normal distribution."""
    quantiles = torch.special.ndtri(torch.linspace(0.0, 1.0, 1_000_003, dtype=torch.float64)[1:-1])
    return float(torch.nn.functional.silu(quantiles).square().mean().rsqrt())


def _card(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """Origin of a checkpoint, its data from the names in its settings."""
    names = ("train_path", "extra_train_path", "finetune_from", "resume_from")
    text = " ".join(str(header.get(name, "")) for name in names).lower()
    data = [name for words, name in _DATA_SETS.items() if any(word in text for word in words)]
    public = _PUBLIC.match(path.stem)
    return {
        "source": f"nequix, {path.name}",
        "origin": "https://github.com/atomicarchitects/nequix" if public else "unknown",
        "licence": "MIT" if public else "unknown",
        "trained_on": f"{', '.join(data)} (PBE and PBE+U)" if data else "unknown",
        "cite": "Koker et al., arXiv:2508.16067 and arXiv:2601.07742",
    }
