"""What is logged of replicas, and their frames, from a state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray
from torch import Tensor

from mlff2d.slab import batched_area

from ..slabs import Slabs
from .corrugation import corrugation
from .log import LogRow
from .state import MDState, kinetic_energy, stress, temperature


@dataclass(frozen=True)
class Replica:
    """Who a replica is.

    Attributes
    ----------
    number : among all replicas, the key of its slab
    structure : number of its structure in the input
    given : the structure as it was given, without results
    offset : (N, 3) Å from positions in a state to those in a frame, which are in the image given
    """

    number: int
    structure: int
    given: Atoms
    offset: NDArray[np.floating]


def rows(
    state: MDState, replicas: Mapping[int, Replica], step: int, timestep: float, target: float
) -> list[LogRow]:
    """A line of the log for each replica of a state."""
    slabs, n_atoms = state.slabs, state.slabs.n_atoms
    tension = stress(state)
    columns = {
        "potential_per_atom": state.energy / n_atoms,
        "kinetic_per_atom": kinetic_energy(state) / n_atoms,
        "conserved_per_atom": state.conserved / n_atoms,
        "temperature": temperature(state),
        "stress_xx": tension[:, 0, 0],
        "stress_yy": tension[:, 1, 1],
        "stress_xy": tension[:, 0, 1],
        "area_per_atom": batched_area(slabs.cell, slabs.pbc) / n_atoms,
        "thickness": _thickness(slabs),
    }
    table = torch.stack(list(columns.values()), dim=1).tolist()
    found = []
    for s, (key, values) in enumerate(zip(slabs.key.tolist(), table, strict=True)):
        pos = slabs.pos[slabs.atoms_of(s)]
        found.append(
            LogRow(
                replica=key,
                structure=replicas[key].structure,
                step=step,
                time_fs=step * timestep,
                target=target,
                corrugation=corrugation(pos, slabs.cell[s], slabs.pbc[s]),
                **dict(zip(columns, values, strict=True)),
            )
        )
    return found


def frames(
    state: MDState, replicas: Mapping[int, Replica], step: int, timestep: float
) -> Iterator[tuple[int, Atoms]]:
    """Each replica's number and Atoms, its image, vacuum and constraints as they were given.

    Attached are energy, forces and, where the cell has a volume, stress (eV/Å³, without the motion
    of the atoms, as belongs to energy and forces); in info replica, structure, step, time_fs,
    temperature (K) and stress_2d (N/m, with the motion, as in the log).
    """
    state = state.to("cpu")
    slabs, tension, heat = state.slabs, stress(state), temperature(state)
    momenta = (state.velocities * state.masses[:, None]).numpy()
    for s, key in enumerate(slabs.key.tolist()):
        replica, of_atoms = replicas[key], slabs.atoms_of(s)
        atoms = replica.given.copy()
        cell, periodic = atoms.cell.array.copy(), slabs.pbc[s].numpy()
        cell[periodic] = slabs.cell[s].numpy()[periodic]
        atoms.set_cell(cell, apply_constraint=False)
        atoms.set_positions(slabs.pos[of_atoms].numpy() + replica.offset, apply_constraint=False)
        atoms.set_momenta(momenta[of_atoms], apply_constraint=False)
        atoms.info |= {
            "replica": replica.number,
            "structure": replica.structure,
            "step": step,
            "time_fs": step * timestep,
            "temperature": float(heat[s]),
            "stress_2d": tension[s].flatten()[[0, 3, 1]].numpy(),
        }
        results = {"energy": float(state.energy[s]), "forces": state.forces[of_atoms].numpy()}
        volume = abs(np.linalg.det(cell))
        if volume > 1e-6:
            results["stress"] = full_3x3_to_voigt_6_stress(state.virial[s].numpy() / volume)
        atoms.calc = SinglePointCalculator(atoms, **results)
        yield key, atoms


def plain(atoms: Atoms, state: tuple[str, ...]) -> Atoms:
    """A structure without results, velocities and all that a frame of a run says of itself.

    Of its info stays what `state`, the entries a model takes in, names.
    """
    return Atoms(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell,
        pbc=atoms.pbc,
        masses=atoms.arrays.get("masses"),
        constraint=atoms.constraints,
        info={name: atoms.info[name] for name in state if name in atoms.info},
    )


def velocities_of(atoms: Atoms) -> Tensor:
    """(N, 3) velocities in ASE's unit; zero where the structure has none."""
    return torch.from_numpy(np.array(atoms.get_velocities(), dtype=float))


def nanoseconds_per_day(steps: int, timestep: float, seconds: float) -> float:
    """How far one replica gets in a day; NaN where no step was taken."""
    return steps * timestep * 1e-6 / seconds * 86400 if steps else float("nan")


def _thickness(slabs: Slabs) -> Tensor:
    """(S,) Å between the outermost nuclei along the normals."""
    rows = slabs.cell * slabs.pbc.unsqueeze(2)
    normal = torch.linalg.cross(rows, rows.roll(-1, dims=1)).sum(1)
    normal = normal / normal.norm(dim=1, keepdim=True)
    heights = (slabs.pos * normal[slabs.batch]).sum(1)
    start = heights.new_zeros(slabs.n_structures)
    highest = start.scatter_reduce(0, slabs.batch, heights, "amax", include_self=False)
    lowest = start.scatter_reduce(0, slabs.batch, heights, "amin", include_self=False)
    return highest - lowest
