"""Many slabs as one state: what relaxation and dynamics in batches move.

Axes: S structures, N atoms of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from torch import Tensor

from mlff2d import slab
from mlff2d.atoms import canonical_slab, info_number
from mlff2d.errors import StructureError


@dataclass(frozen=True)
class Slabs:
    """Geometries of slabs in canonical form, all floating tensors float64.

    Attributes
    ----------
    key : (S,) int64, a number for each structure that stays its own while others come and go
    z : (N,) int64 atomic numbers
    batch : (N,) int64 structure of each atom, ascending from 0
    pos : (N, 3) Å, each layer in one piece; see `mlff2d.slab.canonical`
    cell : (S, 3, 3) lattice vectors as rows in Å
    pbc : (S, 3) bool, False along the vacuum
    held : (N,) bool, atoms that `FixAtoms` holds: they keep their place in the deforming cell
    state : (S, K) what a model takes in beside the geometry, see `mlff2d.graph.Graph`
    """

    key: Tensor
    z: Tensor
    batch: Tensor
    pos: Tensor
    cell: Tensor
    pbc: Tensor
    held: Tensor
    state: Tensor

    @property
    def n_structures(self) -> int:
        """S."""
        return self.cell.shape[0]

    @property
    def n_atoms(self) -> Tensor:
        """(S,) int64 atoms of each structure."""
        return torch.bincount(self.batch, minlength=self.n_structures)

    def atoms_of(self, s: int) -> slice:
        """Rows of the atoms of structure s."""
        first, last = torch.searchsorted(self.batch, torch.tensor([s, s + 1]).to(self.batch))
        return slice(int(first), int(last))

    def select(self, kept: Tensor) -> Slabs:
        """The structures that a mask (S,) keeps, in their order."""
        rows = kept[self.batch]
        number = torch.cumsum(kept, 0) - 1
        return Slabs(
            key=self.key[kept],
            z=self.z[rows],
            batch=number[self.batch[rows]],
            pos=self.pos[rows],
            cell=self.cell[kept],
            pbc=self.pbc[kept],
            held=self.held[rows],
            state=self.state[kept],
        )

    def moved(self, pos: Tensor, cell: Tensor | None = None) -> Slabs:
        """The same structures elsewhere."""
        return replace(self, pos=pos, cell=self.cell if cell is None else cell)

    def to(self, device: torch.device | str) -> Slabs:
        """The same on a device."""
        return Slabs(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def require_slab(atoms: Atoms) -> slab.Slab:
    """The slab in one piece, see `mlff2d.slab.canonical`.

    Raises StructureError for anything that is not a slab, as for a structure with NaN.
    """
    canonical = canonical_slab(atoms)
    if canonical.axis is not None:
        return canonical
    formula, n_periodic = atoms.get_chemical_formula(mode="metal"), int(atoms.pbc.sum())
    if n_periodic == 3 and slab.empty_axes(atoms.positions, atoms.cell.array):
        raise StructureError(
            f"{formula} is periodic along three axes and has vacuum along more than one; "
            "set pbc False along the layer's normal"
        )
    if n_periodic == 3:
        raise StructureError(
            f"{formula} is periodic along three axes and no axis has the {slab.MIN_VACUUM} Å of "
            "vacuum that make it a slab; add vacuum, or set pbc False along the layer's normal"
        )
    what = "a molecule" if n_periodic == 0 else "a chain"
    raise StructureError(
        f"{formula} with pbc {atoms.pbc.tolist()} is {what}, not a slab; "
        "set pbc True along the two lattice vectors of the layer"
    )


def one_slab(atoms: Atoms, key: int, state: Sequence[str] = ()) -> Slabs:
    """One structure in canonical form, on the CPU.

    `state` names the entries of `atoms.info` that the model takes in. Raises StructureError for
    what is not a slab, for constraints other than `FixAtoms`, and for a state that is not there.
    """
    canonical = require_slab(atoms)
    held = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            name = type(constraint).__name__
            raise StructureError(f"of constraints only FixAtoms can be kept, not {name}; remove it")
        held[constraint.index] = True
    numbers = torch.from_numpy(atoms.numbers.astype(np.int64))
    return Slabs(
        key=torch.tensor([key]),
        z=numbers,
        batch=torch.zeros_like(numbers),
        pos=torch.from_numpy(np.array(canonical.pos)),
        cell=torch.from_numpy(np.array(atoms.cell.array))[None],
        pbc=torch.from_numpy(canonical.pbc)[None],
        held=torch.from_numpy(held),
        state=torch.tensor([[info_number(atoms, name) for name in state]], dtype=torch.float64),
    )


def join(parts: Sequence[Slabs]) -> Slabs:
    """Slabs of several parts, in their order. Raises ValueError for none."""
    if not parts:
        raise ValueError("there are no slabs to join")
    first, batch = 0, []
    for part in parts:
        batch.append(part.batch + first)
        first += part.n_structures
    joined = {
        f.name: torch.cat([getattr(p, f.name) for p in parts])
        for f in fields(Slabs)
        if f.name != "batch"
    }
    return Slabs(**joined, batch=torch.cat(batch))
