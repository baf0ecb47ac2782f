"""What the reference implementations say: how it is made, stored and compared.

A script `make_<peer>.py` runs in an environment of its own, which its docstring tells how to make,
and writes `<peer>-<model>.npz` with `write`; the tests read it with `read` and compare with
`compare`. The scripts import only this file, which needs no more than numpy and ASE for that:

    python tests/parity/make_<peer>.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.build import molecule, mx2

if TYPE_CHECKING:
    from mlff2d.models.base import EnergyModel

FOLDER = Path(__file__).parent
ELEMENTS = (1, 6, 16, 29, 42)


@dataclass(frozen=True)
class Reference:
    """A tiny random model of a peer and what it gives.

    Attributes
    ----------
    peer : name and version of the package
    settings : of its model, in its own words
    weights : its parameters and buffers by their names there
    structures : what it was given
    energies : (len(structures),) total energies
    forces : one (N, 3) array for each structure
    """

    peer: str
    settings: dict[str, Any]
    weights: dict[str, np.ndarray]
    structures: list[Atoms]
    energies: np.ndarray
    forces: list[np.ndarray]


def inputs() -> list[Atoms]:
    """A slab, a bulk crystal and a molecule, of several elements each, far from symmetric.

    All periodic, with 15 Å of vacuum where nothing repeats: several peers get mixed or no
    periodicity wrong, and no model with a cutoff below that feels the difference.
    """
    slab = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=7.5) * (2, 1, 1)
    slab.symbols[2] = "C"
    slab.rattle(0.08, seed=1)
    bulk = Atoms(
        "CuSCMo",
        scaled_positions=[
            (0.02, 0.0, 0.05),
            (0.5, 0.48, 0.0),
            (0.05, 0.55, 0.5),
            (0.52, 0.03, 0.46),
        ],
        cell=[(3.9, 0.2, 0.0), (-0.4, 4.1, 0.3), (0.1, 0.5, 4.4)],
    )
    small = molecule("CH3SH")
    small.rattle(0.05, seed=2)
    small.set_cell([15.0, 16.0, 17.0])
    small.center()
    for atoms in (slab, bulk, small):
        atoms.pbc = True
    return [slab, bulk, small]


def write(
    name: str,
    peer: str,
    settings: dict[str, Any],
    weights: dict[str, np.ndarray],
    structures: Sequence[Atoms],
    energies: Sequence[float],
    forces: Sequence[np.ndarray],
) -> None:
    """Store a reference as `<name>.npz` beside this file; `settings` must fit into JSON."""
    content: dict[str, Any] = {
        "peer": peer,
        "settings": json.dumps(settings),
        "energies": np.array(energies),
    }
    content |= {f"weights/{key}": np.asarray(value) for key, value in weights.items()}
    for k, (atoms, f) in enumerate(zip(structures, forces, strict=True)):
        content[f"{k}/numbers"] = atoms.numbers
        content[f"{k}/positions"] = atoms.positions
        content[f"{k}/cell"] = atoms.cell.array
        content[f"{k}/pbc"] = atoms.pbc
        content[f"{k}/forces"] = np.asarray(f)
    np.savez_compressed(FOLDER / f"{name}.npz", **content)


def read(name: str) -> Reference:
    """The reference stored as `<name>.npz`."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        content = dict(file)
    structures = [
        Atoms(*(content[f"{k}/{part}"] for part in ("numbers", "positions")), cell=cell, pbc=pbc)
        for k in range(len(content["energies"]))
        for cell, pbc in [(content[f"{k}/cell"], content[f"{k}/pbc"])]
    ]
    return Reference(
        peer=str(content["peer"]),
        settings=json.loads(str(content["settings"])),
        weights={k.removeprefix("weights/"): v for k, v in content.items() if k.startswith("weig")},
        structures=structures,
        energies=content["energies"],
        forces=[content[f"{k}/forces"] for k in range(len(structures))],
    )


def compare(
    model: EnergyModel,
    reference: Reference,
    scale: float = 1.0,
    shift: dict[int, float] | None = None,
    in_float32: bool = True,
) -> None:
    """Assert that a model gives the reference's energies and forces, in float64 and in float32.

    To 1e-10 of the greatest number in float64, where the reference was computed so, and to 1e-5 in
    float32, unless its weights make numbers so great that float32 itself is further off, whatever
    the program (`in_float32=False`). Energies are taken times `scale`, plus `shift` for each atom
    of an element.
    """
    import torch

    from mlff2d.atoms import to_graph
    from mlff2d.potential import Potential

    exact = reference.energies.dtype == np.float64
    expected = np.concatenate(reference.forces)
    assert np.abs(expected).max() > 1e-4, "the reference feels nothing"
    shift = dict.fromkeys(range(1, 119), 0.0) if shift is None else shift
    potential = Potential(model, shift, scale=scale).eval()
    tolerances = {torch.float64: 1e-10 if exact else 1e-5}
    if in_float32:
        tolerances[torch.float32] = 1e-5
    for dtype, tolerance in tolerances.items():
        potential = potential.to(dtype=dtype)
        energies, forces = [], []
        for atoms in reference.structures:
            graph = to_graph(atoms, model.cutoff).to(dtype=dtype)
            found = potential(graph, create_graph=False)
            energies.append(float(found.energy))
            assert found.forces is not None
            forces.append(found.forces.double().numpy())
        error = np.abs(np.array(energies) - reference.energies).max()
        assert error < tolerance * np.abs(reference.energies).max()
        error = np.abs(np.concatenate(forces) - expected).max()
        assert error < tolerance * np.abs(expected).max()
