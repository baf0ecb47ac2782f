"""Reference energies and forces of mace-torch, for the tests of `mlff2d.models.mace`.

In an environment of its own, for mace-torch pins an e3nn that nothing newer goes with (CPU build
of torch):

    pip install torch==2.13.0
    pip install mace-torch==0.3.16
    python tests/parity/make_mace.py

It also writes `mace-tiny.model.gz`, a model file as mace-torch saves them, and what that one gives.
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import reference
import torch
from ase import Atoms
from mace import data, modules
from mace.__version__ import __version__
from mace.tools import AtomicNumberTable, torch_geometric

PEER = f"mace-torch {__version__}"

# In mace-torch's words; what is not said is as below.
COMMON: dict[str, Any] = {
    "model": "ScaleShiftMACE",
    "r_max": 4.5,
    "num_bessel": 4,
    "num_polynomial_cutoff": 5,
    "max_ell": 2,
    "num_interactions": 2,
    "hidden_irreps": "4x0e+4x1o",
    "MLP_irreps": "4x0e",
    "correlation": 3,
    "avg_num_neighbors": 2.3,
    "radial_MLP": [6, 5],
    "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
    "interaction_cls": "RealAgnosticResidualInteractionBlock",
    "distance_transform": "None",
    "pair_repulsion": False,
    "atomic_inter_scale": 0.83,
    "atomic_inter_shift": 0.17,
    "heads": ["only"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "scalars": {"hidden_irreps": "4x0e", "max_ell": 3},
    "vectors": {},
    "tensors": {"hidden_irreps": "3x0e+3x1o+3x2e", "num_interactions": 3, "correlation": 2},
    "pairs-only": {"max_ell": 1, "correlation": 1, "hidden_irreps": "4x0e+4x1o"},
    "four": {"max_ell": 1, "correlation": 4, "hidden_irreps": "3x0e+3x1o"},
    "one-layer": {"num_interactions": 1, "hidden_irreps": "4x0e", "model": "MACE"},
    "plain": {
        "model": "MACE",
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "num_polynomial_cutoff": 6,
    },
    "density": {
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
        "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
    },
    "density-residual": {
        "model": "MACE",
        "hidden_irreps": "4x0e",
        "max_ell": 1,
        "interaction_cls_first": "RealAgnosticDensityResidualInteractionBlock",
        "interaction_cls": "RealAgnosticDensityInteractionBlock",
        "pair_repulsion": True,
    },
    "two-heads": {
        "hidden_irreps": "4x0e",
        "max_ell": 1,
        "correlation": 2,
        "heads": ["first", "second"],
        "atomic_inter_scale": [0.83, 1.21],
        "atomic_inter_shift": [0.17, -0.4],
    },
}


def tiny_model(
    settings: dict[str, Any], elements: tuple[int, ...] = reference.ELEMENTS, seed: int = 1
) -> torch.nn.Module:
    """A model with random weights in torch's default precision."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    words = dict(settings)
    model_class = getattr(modules, words.pop("model"))
    if model_class is not modules.ScaleShiftMACE:
        del words["atomic_inter_scale"], words["atomic_inter_shift"]
    for key in ("interaction_cls_first", "interaction_cls"):
        words[key] = getattr(modules.blocks, words[key])
    for key in ("hidden_irreps", "MLP_irreps"):
        words[key] = modules.blocks.o3.Irreps(words[key])
    model = model_class(
        **words,
        num_elements=len(elements),
        atomic_numbers=list(elements),
        atomic_energies=rng.normal(size=(len(words["heads"]), len(elements))),
        gate=torch.nn.functional.silu,
    )
    message_size = 4.0 if "Density" in settings["interaction_cls"] else 10.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                # Messages so large that products of three of them count as much as one.
                is_message = "interactions" in name and name.endswith(".linear.weight")
                parameter.normal_(std=message_size if is_message else 1.0)
    return model


def evaluate(model: torch.nn.Module, structures: list[Atoms]) -> tuple[list[float], list[Any]]:
    """Total energies and forces, of the last head."""
    heads = list(model.heads)
    table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
    energies, forces = [], []
    for atoms in structures:
        config = data.config_from_atoms(atoms, head_name=heads[-1])
        item = data.AtomicData.from_config(
            config, z_table=table, cutoff=float(model.r_max), heads=heads
        )
        batch = next(iter(torch_geometric.dataloader.DataLoader([item], batch_size=1)))
        found = model(batch.to_dict(), compute_force=True)
        energies.append(float(found["energy"]))
        forces.append(found["forces"].detach().numpy())
    return energies, forces


def main() -> None:
    """Write all references."""
    torch.set_default_dtype(torch.float64)
    structures = reference.inputs()
    for name, changes in VARIANTS.items():
        settings = COMMON | changes
        model = tiny_model(settings)
        energies, forces = evaluate(model, structures)
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
        reference.write(f"mace-{name}", PEER, settings, weights, structures, energies, forces)
        size = (reference.FOLDER / f"mace-{name}.npz").stat().st_size
        print(name, size, energies, file=sys.stderr)
    write_file(reference.FOLDER / "mace-tiny.model.gz", structures)


def write_file(path: Path, structures: list[Atoms]) -> None:
    """A model file in float32, as they are published, and what it gives in float64.

    Packed, for most of it is code that e3nn generates.
    """
    torch.set_default_dtype(torch.float32)
    settings = COMMON | VARIANTS["density"] | {"max_ell": 1, "hidden_irreps": "3x0e+3x1o"}
    model = tiny_model(settings, seed=3)
    content = io.BytesIO()
    torch.save(model, content)
    path.write_bytes(gzip.compress(content.getvalue(), mtime=0))
    torch.set_default_dtype(torch.float64)
    energies, forces = evaluate(model.double(), structures)
    reference.write("mace-file", PEER, settings, {}, structures, energies, forces)
    print(path.name, path.stat().st_size, energies, file=sys.stderr)


if __name__ == "__main__":
    main()
