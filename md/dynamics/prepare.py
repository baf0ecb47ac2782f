"""From structures as they were given to the replicas that move."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlff2d.errors import StructureError
from mlff2d.potential import Potential

from ..slabs import Slabs, join, one_slab
from .measure import Replica, plain, velocities_of
from .settings import MDSettings
from .state import degrees_of_freedom, without_net
from .velocities import maxwell_boltzmann


@dataclass(frozen=True)
class Prepared:
    """Who moves, and from where.

    Attributes
    ----------
    n_replicas : of all structures, those that cannot move included
    replicas : those that can by number, which is the key of their slab
    starts : their first geometry in the form of `mlff2d.slab.canonical`
    failed : a sentence by number for each that cannot
    formulas : of every structure, "" where it could not be read
    slabs : of all that can
    masses : (N,) amu
    velocities : (N, 3) in ASE's unit
    digest : of all the structures
    """

    n_replicas: int
    replicas: dict[int, Replica]
    starts: dict[int, Atoms]
    failed: dict[int, str]
    formulas: list[str]
    slabs: Slabs
    masses: Tensor
    velocities: Tensor
    digest: str


def prepare(
    structures: Sequence[Atoms | StructureError], potential: Potential, settings: MDSettings
) -> Prepared:
    """Make the replicas of all structures, numbered structure by structure.

    Raises the first StructureError where no structure can move, and ValueError for none at all.
    """
    if not structures:
        raise ValueError("there are no structures to move")
    state = tuple(potential.model.state)
    parts, replicas, starts, masses, velocities = [], {}, {}, [], []
    failed: dict[int, str] = {}
    digest = hashlib.sha256()
    for index, given in enumerate(structures):
        numbers = range(index * settings.replicas, (index + 1) * settings.replicas)
        try:
            slab = _movable(given, potential, state, settings.velocities)
        except StructureError as error:
            failed |= dict.fromkeys(numbers, str(error))
            digest.update(str(error).encode())
            continue
        assert isinstance(given, Atoms)
        template, own = plain(given, state), velocities_of(given)
        start = plain(given, state)
        start.positions, start.pbc = slab.pos.numpy(), slab.pbc[0].numpy()
        _digest(digest, template, slab, own if settings.velocities == "keep" else None)
        for number in numbers:
            parts.append(replace(slab, key=torch.tensor([number])))
            offset = template.positions - start.positions
            replicas[number] = Replica(number, index, template, offset)
            starts[number] = start
            masses.append(torch.from_numpy(np.array(given.get_masses(), dtype=float)))
            velocities.append(own)
    if not parts:
        raise StructureError(_first_failure(structures, failed[0]))
    slabs, mass = join(parts), torch.cat(masses)
    if settings.velocities == "keep":
        momenta = torch.cat(velocities) * mass[:, None]
        moving = without_net(momenta, slabs, mass) / mass[:, None]
    else:
        moving = maxwell_boltzmann(
            slabs, settings.temperature, settings.seed, masses=mass, exact=True
        )
    n_replicas = len(structures) * settings.replicas
    formulas = [
        given.get_chemical_formula(mode="metal") if isinstance(given, Atoms) else ""
        for given in structures
    ]
    return Prepared(
        n_replicas, replicas, starts, failed, formulas, slabs, mass, moving, digest.hexdigest()
    )


def _first_failure(structures: Sequence[Atoms | StructureError], reason: str) -> str:
    """Of structures that all failed why the first did, and which that is."""
    first = structures[0]
    if isinstance(first, StructureError):
        return reason  # which names its file
    return f"structure 0 ({first.get_chemical_formula(mode='metal')}) cannot move: {reason}"


def _movable(
    given: Atoms | StructureError, potential: Potential, state: tuple[str, ...], velocities: str
) -> Slabs:
    if isinstance(given, StructureError):
        raise given
    slab = one_slab(given, 0, state)
    potential.check_elements(given.numbers)
    if not degrees_of_freedom(slab)[0]:
        raise StructureError(
            "nothing can move in it: a lone atom, or all atoms held; repeat the cell, or free some "
            "atoms"
        )
    if velocities == "keep" and not given.get_momenta().any():
        raise StructureError("it has no velocities that could be kept; let them be drawn")
    return slab


def _digest(digest: hashlib._Hash, atoms: Atoms, slab: Slabs, velocities: Tensor | None) -> None:
    """Take in all of a structure that a run depends on."""
    digest.update(repr(sorted(atoms.info.items())).encode())
    parts = [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses()]
    parts.append(slab.held.numpy())
    if velocities is not None:
        parts.append(velocities.numpy())
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
