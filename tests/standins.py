"""Slabs and a pair potential, as a calculator and as a model, that stand in for real ones."""

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.build import fcc111
from ase.calculators.calculator import Calculator, all_changes
from scipy.spatial.transform import Rotation
from torch import nn

from mlff2d.atoms import canonical_slab
from mlff2d.models.base import EnergyModel
from mlff2d.neighbors import neighbor_list
from mlff2d.nn.scatter import segment_sum
from mlff2d.potential import Potential


class Morse(Calculator):
    """A pair potential that knows slabs and the virial as our calculator does, without a volume."""

    implemented_properties = ("energy", "forces", "virial")

    def __init__(self, depth: float = 1.0, width: float = 1.5, length: float = 2.5) -> None:
        super().__init__()
        self.depth, self.width, self.length = depth, width, length

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        slab, cell = canonical_slab(self.atoms), self.atoms.cell.array
        (i, j), shift = neighbor_list(slab.pos, cell, slab.pbc, cutoff := 7.0)
        vectors = slab.pos[j] - slab.pos[i] + shift @ np.where(slab.pbc[:, None], cell, 0.0)
        r = np.linalg.norm(vectors, axis=1)
        x, fade = np.exp(-self.width * (r - self.length)), (1 - (r / cutoff) ** 2) ** 3
        well, slope = self.depth * (x**2 - 2 * x), 2 * self.depth * self.width * (x - x**2)
        slope = slope * fade - well * 6 * (1 - (r / cutoff) ** 2) ** 2 * r / cutoff**2
        pull = (slope / r)[:, None] * vectors
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, pull)
        self.results = {
            "energy": float((well * fade).sum() / 2),
            "forces": forces,
            "virial": np.einsum("ex,ey->xy", pull, vectors) / 2,
        }


@dataclass(frozen=True)
class MorseConfig:
    """eV, 1/Å, Å."""

    depth: float = 0.4
    width: float = 1.5
    length: float = 2.71
    cutoff: float = 4.5


class MorseNet(EnergyModel):
    """Morse's potential between all atoms, alike for all elements."""

    Config = MorseConfig
    n_features = 1

    def __init__(self, config: MorseConfig) -> None:
        super().__init__()
        self.config, self.cutoff = config, config.cutoff
        self.readout = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.readout.weight, config.depth)

    def features(self, graph, edge_vec):
        r = edge_vec.norm(dim=1, keepdim=True)
        x = torch.exp(-self.config.width * (r - self.config.length))
        fade = (1 - (r / self.cutoff).clamp(max=1) ** 2) ** 3
        return segment_sum((x**2 - 2 * x) * fade, graph.edge_index[0], graph.n_atoms)


def morse(**config: float) -> Potential:
    """In float64, for some elements."""
    model = MorseNet(MorseConfig(**config))
    return Potential(model, {z: 0.0 for z in (1, 6, 29, 79)}).double().eval()


def sheet(n: int = 2, layers: int = 2, a: float = 3.6) -> Atoms:
    """(111) copper, n x n, pbc TTF, its vacuum 6 Å on either side."""
    return fcc111("Cu", (n, n, layers), a=a, vacuum=6.0)


def copper(layers: int = 2, scale: float = 1.03, seed: int = 0) -> Atoms:
    """A rattled slab of EMT copper, pbc TTF."""
    atoms = fcc111("Cu", (2, 2, layers), a=3.6, vacuum=6.0)
    atoms.set_cell(atoms.cell.array * [[scale], [scale], [1]], scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def rotated(atoms: Atoms, seed: int) -> Atoms:
    matrix = Rotation.random(random_state=seed).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ matrix.T)
    turned.positions = atoms.positions @ matrix.T
    return turned
