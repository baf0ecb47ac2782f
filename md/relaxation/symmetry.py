"""The layer group of a slab, kept through a relaxation.

A start that is symmetric within a tolerance is made exactly so; then every force is replaced by its
mean over the operations of the group, and of the strain only that is free which the group allows.
Optimisers move positions in the undeformed cell (see `cell`), so the operations never change.

The group is that of the primitive cell: in a supercell the atoms that a lattice vector of the
primitive cell takes into each other have the same force, and operations that map the primitive
lattice onto itself hold, whether or not they map the supercell's onto itself.

The mean over G operations need not be taken over G: with r the first atom of an orbit, R_i the
rotation of an operation that takes r to i, and P the mean of the rotations that leave r where it
is, the mean force is R_i P mean_j(R_jᵀ f_j), the mean being over the orbit.

Axes: S structures, N atoms, G operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlff2d.errors import StructureError
from mlff2d.symmetry import LayerSymmetry, layer_symmetry, reduced

from ..lattice import SYMPREC
from ..slabs import Slabs
from . import cell as strain

Array = NDArray[np.floating]

_SAME_ATOM = 0.2  # Å, half of what two atoms at least are apart
_HELD = 1000  # added to the atomic number of a held atom: it is no image of one that is free


@dataclass(frozen=True)
class Orbits:
    """What makes forces symmetric.

    Attributes
    ----------
    first : (N,) int64 the first atom of each atom's orbit, counted within its structure
    inward : (N, 3, 3) R_j over the size of the orbit: force (row) @ inward is its part of the mean
    outward : (N, 3, 3) (R_i P)ᵀ: mean (row) @ outward is the force
    """

    first: Tensor
    inward: Tensor
    outward: Tensor

    def project(self, forces: Tensor, slabs: Slabs) -> Tensor:
        """(N, 3) the symmetric part of forces (N, 3)."""
        n_atoms = slabs.n_atoms
        first = self.first + (n_atoms.cumsum(0) - n_atoms)[slabs.batch]
        parts = (forces.unsqueeze(2) * self.inward).sum(1)
        mean = torch.zeros_like(forces).index_add_(0, first, parts)
        return (mean[first].unsqueeze(2) * self.outward).sum(1)

    def select(self, atoms: Tensor) -> Orbits:
        """Those of the structures whose atoms a mask (N,) keeps."""
        return Orbits(**{f.name: getattr(self, f.name)[atoms] for f in fields(self)})


def join(parts: Sequence[Orbits]) -> Orbits:
    """Those of several parts, in their order."""
    return Orbits(
        **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Orbits)}
    )


@dataclass(frozen=True)
class Symmetric:
    """One slab that is exactly symmetric.

    Attributes
    ----------
    slabs : the structure, S = 1
    moved : Å, the farthest that an atom was moved, beside the strain of the cell
    number : of the layer group, 0 where none was found and nothing is kept
    rotations : (G, 3, 3) of the group, orthogonal: a row vector goes to row @ rotation
    orbits : see `Orbits`
    """

    slabs: Slabs
    moved: float
    number: int
    rotations: Tensor
    orbits: Orbits

    def basis(self, free: str) -> Tensor:
        """(1, K, 2, 2) as `cell.basis` in the axes of `cell.plane_axes`, of symmetric strain only.

        Raises StructureError where a vector of the cell is to stay and the group lets the cell
        change only in ways that turn it.
        """
        slabs = self.slabs
        axes = strain.plane_axes(slabs.cell, slabs.pbc)
        rotations = axes @ self.rotations @ axes.transpose(1, 2)
        allowed = _invariant(strain.basis(slabs.cell, slabs.pbc, axes, free), rotations)
        if free in ("a", "b"):
            whole = _invariant(strain.basis(slabs.cell, slabs.pbc, axes, "full"), rotations)
            # To keep the length of a vector takes one coordinate, whatever the group.
            if _n_free(allowed) < _n_free(whole) - 1:
                raise StructureError(
                    f"the lattice vector {free} cannot stay as it is while the cell keeps the "
                    f"layer group {self.number}: give a cell with its vectors along the axes of "
                    "symmetry, leave the symmetry out, or fix the cell"
                )
        return allowed


def symmetrized(slabs: Slabs, symprec: float = SYMPREC) -> Symmetric:
    """A slab (S = 1, on the CPU) moved to where the group it has within `symprec` Å is exact.

    The metric of its lattice and the positions are the means over all operations. Atoms that are
    held are moved like others, and equivalent only to such. Raises StructureError where the group
    holds too loosely to tell which atom an operation takes onto which.
    """
    primitive = _Primitive.of(slabs, symprec)
    found = None if primitive is None else primitive.symmetry(symprec)
    if primitive is None or found is None:
        n, eye = len(slabs.z), torch.eye(3, dtype=slabs.pos.dtype)
        alone = Orbits(torch.arange(n), eye.expand(n, 3, 3).clone(), eye.expand(n, 3, 3).clone())
        return Symmetric(slabs, 0.0, 0, eye[None], alone)
    stretch, rotations = _symmetric_lattice(found)
    primitive = primitive.stretched(stretch)
    images = _Images.of(primitive, found, found.lattice @ stretch)
    primitive = replace(primitive, pos=_mean_positions(primitive.pos, images, rotations))
    pos = primitive.pos[primitive.class_of] + primitive.offset
    cell = slabs.cell.clone()
    cell[0, slabs.pbc[0]] = cell[0, slabs.pbc[0]] @ torch.from_numpy(stretch)
    before = slabs.pos.numpy() @ stretch
    # The layer as a whole stays where it was.
    pos = pos - (pos - before).mean(0)
    return Symmetric(
        slabs=slabs.moved(torch.from_numpy(pos), cell),
        moved=float(np.linalg.norm(pos - before, axis=1).max()),
        number=found.number,
        rotations=torch.from_numpy(rotations),
        orbits=_orbits(images.onto, rotations, primitive.class_of),
    )


@dataclass(frozen=True)
class _Primitive:
    """The primitive cell of a slab: M classes of atoms that its lattice takes into each other.

    Attributes
    ----------
    numbers : (M,) kinds of atoms
    pos : (M, 3) Å, of each class the mean, seen from its first atom
    lattice : (2, 3) Å, lattice vectors
    class_of : (N,) class of each atom
    offset : (N, 3) Å, lattice vector from the class to the atom
    """

    numbers: NDArray[np.int64]
    pos: Array
    lattice: Array
    class_of: NDArray[np.int64]
    offset: Array

    @classmethod
    def of(cls, slabs: Slabs, symprec: float) -> _Primitive | None:
        """None where no group is found. Raises StructureError where it holds too loosely."""
        pos, cell, pbc = (x.numpy() for x in (slabs.pos, slabs.cell[0], slabs.pbc[0]))
        numbers = (slabs.z + _HELD * slabs.held).numpy()
        found = layer_symmetry(numbers, pos, cell, pbc, symprec)
        if found is None:
            return None
        lattice = _primitive_lattice(found)
        class_of = np.full(len(pos), -1)
        offset = np.zeros_like(pos)
        means: list[Array] = []
        for i in range(len(pos)):
            if class_of[i] >= 0:
                continue
            alike = np.flatnonzero((class_of < 0) & (numbers == numbers[i]))
            steps = _nearest_lattice_vector(pos[alike] - pos[i], lattice)
            rest = pos[alike] - pos[i] - steps
            near = np.linalg.norm(rest, axis=1) < _SAME_ATOM
            class_of[alike[near]] = len(means)
            offset[alike[near]] = steps[near]
            means.append(pos[i] + rest[near].mean(0))
        if len(set(np.bincount(class_of))) > 1:
            raise _not_kept(found.number)
        first = np.unique(class_of, return_index=True)[1]
        return cls(numbers[first], np.array(means), lattice, class_of, offset)

    def symmetry(self, symprec: float) -> LayerSymmetry | None:
        """Of the primitive cell."""
        cell = np.vstack([self.lattice, np.zeros(3)])
        pbc = np.array([True, True, False])
        return layer_symmetry(self.numbers, self.pos, cell, pbc, symprec)

    def stretched(self, stretch: Array) -> _Primitive:
        """All of it deformed."""
        return replace(
            self,
            pos=self.pos @ stretch,
            lattice=self.lattice @ stretch,
            offset=self.offset @ stretch,
        )


def _primitive_lattice(found: LayerSymmetry) -> Array:
    """(2, 3) reduced lattice vectors of the translations of a slab.

    Of K translations every one is a K-th part of a lattice vector of the cell.
    """
    pure = (found.plane == np.eye(2)).all((1, 2)) & (found.flip == 1)
    n = int(pure.sum())
    if n == 1:
        return found.lattice
    parts = np.round(found.shift[pure, :2] * n).astype(int) % n
    around = np.array([[i, j] for i in range(-2, 3) for j in range(-2, 3)]) * n
    whole = (parts[:, None] + around).reshape(-1, 2)
    whole = whole[(whole != 0).any(1)]
    lengths = np.linalg.norm(whole @ found.lattice, axis=1)
    whole = whole[np.argsort(lengths, kind="stable")]
    area = np.abs(whole[0, 0] * whole[:, 1] - whole[0, 1] * whole[:, 0])
    second = whole[np.flatnonzero(area == n)[0]]
    return np.array(reduced(*(np.array([whole[0], second]) @ found.lattice / n)))


def _nearest_lattice_vector(vectors: Array, lattice: Array) -> Array:
    """(N, 3) the lattice vector near vectors (N, 3) that are almost one."""
    return np.round(vectors @ np.linalg.pinv(lattice)) @ lattice


def _symmetric_lattice(found: LayerSymmetry) -> tuple[Array, Array]:
    """The strain (3, 3) that makes the lattice symmetric, and the rotations (G, 3, 3) then."""
    metric = found.lattice @ found.lattice.T
    mean = (found.plane @ metric @ found.plane.transpose(0, 2, 1)).mean(0)
    x = found.lattice[0] / np.linalg.norm(found.lattice[0])
    axes = np.array([x, np.cross(found.normal, x)])
    flat = found.lattice @ axes.T
    # The symmetric U with (flat U)(flat U)ᵀ = mean, so that nothing is turned.
    values, vectors = np.linalg.eigh(np.linalg.solve(flat, np.linalg.solve(flat, mean).T))
    stretch = (vectors * np.sqrt(values)) @ vectors.T
    flat = flat @ stretch
    normal = np.outer(found.normal, found.normal)
    turns = np.linalg.solve(flat, found.plane @ flat)
    rotations = axes.T @ turns @ axes + found.flip[:, None, None] * normal
    return axes.T @ stretch @ axes + normal, rotations


@dataclass(frozen=True)
class _Images:
    """Where operations take the atoms of a primitive cell.

    Attributes
    ----------
    onto : (G, M) the atom onto which each goes
    step : (G, M, 3) Å, the lattice vector from that atom to where it goes
    """

    onto: NDArray[np.int64]
    step: Array

    @classmethod
    def of(cls, primitive: _Primitive, found: LayerSymmetry, lattice: Array) -> _Images:
        """`primitive` has the symmetric `lattice` already, `found` the one before."""
        heights = primitive.pos @ found.normal
        fractions = primitive.pos @ np.linalg.pinv(lattice)
        unlike = primitive.numbers[:, None] != primitive.numbers
        onto, step = [], []
        for plane, flip, shift in zip(found.plane, found.flip, found.shift, strict=True):
            apart = (fractions @ plane + shift[:2])[:, None] - fractions
            steps = np.round(apart)
            height = (flip * heights + shift[2])[:, None] - heights
            distance = np.hypot(np.linalg.norm((apart - steps) @ lattice, axis=2), height)
            nearest = np.argmin(np.where(unlike, np.inf, distance), axis=1)
            each = np.arange(len(nearest))
            if len(set(nearest)) < len(nearest) or distance[each, nearest].max() > _SAME_ATOM:
                raise _not_kept(found.number)
            onto.append(nearest)
            step.append(steps[each, nearest] @ lattice)
        return cls(np.array(onto), np.array(step))


def _not_kept(number: int) -> StructureError:
    return StructureError(
        f"its layer group {number} holds too loosely to be kept: "
        "leave the symmetry out, or give a more symmetric structure"
    )


def _mean_positions(pos: Array, images: _Images, rotations: Array) -> Array:
    """(M, 3) the mean of where all operations put each atom, up to a shift of the whole layer.

    Without their shifts the operations form a group exactly, and a shift moves all atoms alike.
    """
    mean = np.zeros_like(pos)
    for onto, step, rotation in zip(images.onto, images.step, rotations, strict=True):
        mean[onto] += pos @ rotation - step
    return mean / len(rotations)


def _orbits(onto: NDArray[np.int64], rotations: Array, class_of: NDArray[np.int64]) -> Orbits:
    first_class = onto.min(0)
    each = np.arange(onto.shape[1])
    taking = np.argmax(onto[:, first_class] == each, axis=0)
    staying = onto[:, first_class] == first_class
    site = np.einsum("gm,gxy->mxy", staying, rotations) / staying.sum(0)[:, None, None]
    turn = rotations[taking]
    first_atom = np.unique(class_of, return_index=True)[1]
    first = first_atom[first_class][class_of]
    size = np.bincount(first, minlength=len(class_of))[first]
    return Orbits(
        first=torch.from_numpy(first),
        inward=torch.from_numpy(turn.transpose(0, 2, 1)[class_of] / size[:, None, None]),
        outward=torch.from_numpy((site @ turn)[class_of]),
    )


def _invariant(basis: Tensor, rotations: Tensor) -> Tensor:
    """(1, K, 2, 2) orthonormal, of the span of a basis what rotations (G, 2, 2) leave as it is."""
    turned = rotations.transpose(1, 2)[:, None] @ basis @ rotations[:, None]
    mean = torch.einsum("kij,glij->kl", basis[0], turned) / len(rotations)
    values, vectors = torch.linalg.eigh((mean + mean.T) / 2)
    kept = values > 1 - 1e-6
    if int(kept.sum()) == _n_free(basis):
        return basis
    return torch.einsum("lk,lij->kij", vectors * kept, basis[0])[None]


def _n_free(basis: Tensor) -> int:
    return int((torch.linalg.matrix_norm(basis[0]) > 0.5).sum())
