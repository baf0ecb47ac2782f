"""DFT frames as they are read: what they say, and which of them cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase import Atoms

from mlff2d import slab
from mlff2d.atoms import canonical_slab
from mlff2d.errors import counted

from ..data.readers import iter_frames
from ..data.record import label_fault
from ..generation.layers import material_of


def read_frames(paths: Iterable[Path]) -> tuple[list[Atoms], list[str]]:
    """All frames of files that have an energy, and sentences on the others."""
    frames, notes = [], []
    for path in paths:
        faults = []
        for where, atoms in iter_frames(path):
            if not isinstance(atoms, Atoms):
                faults.append(f"{where}: {atoms.reason}")
            elif fault := label_fault(atoms):
                faults.append(f"{where}: {fault}")
            elif "energy" not in atoms.calc.results:
                faults.append(f"{where}: it has no energy")
            else:
                frames.append(atoms)
        if faults:
            notes.append(
                f"{path}: {counted(len(faults), 'frame')} left out; the first, {faults[0]}"
            )
    return frames, notes


def energy_of(frame: Atoms) -> float:
    """eV, of a frame with labels."""
    return float(frame.get_potential_energy())


def energy_per_atom(frame: Atoms) -> float:
    """eV/atom, of a frame with labels."""
    return energy_of(frame) / len(frame)


def residues(frame: Atoms) -> tuple[float, float]:
    """Largest force in eV/Å and largest in-plane stress in N/m; 0 where none are stored."""
    results = frame.calc.results if frame.calc is not None else {}
    forces = results.get("forces")
    fmax = 0.0 if forces is None else float(np.linalg.norm(forces, axis=1).max())
    if results.get("stress") is None:
        return fmax, 0.0
    cell, pbc = frame.cell.array, canonical_slab(frame).pbc
    virial = frame.get_stress(voigt=False) * frame.get_volume()
    xx, yy, xy = slab.stress_2d(virial, cell, pbc)
    radius = float(np.hypot((xx - yy) / 2, xy))
    return fmax, max(abs((xx + yy) / 2 + radius), abs((xx + yy) / 2 - radius))


def is_relaxed(left: tuple[float, float], max_fmax: float, max_smax: float) -> bool:
    """Whether neither of the `residues` of a frame is larger."""
    return left[0] <= max_fmax and left[1] <= max_smax


def name_of(frame: Atoms) -> str:
    """What a frame calls itself, by default its material."""
    return str(frame.info.get("config") or material_of(frame))
