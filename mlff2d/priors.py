"""What is known before any training: energies of the elements, and the repulsion of nuclei.

Axes: N atoms, E edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from mlff2d.graph import Graph
from mlff2d.nn.scatter import segment_sum

_N_ELEMENTS = 119


class ReferenceEnergies(nn.Module):
    """One energy for each element, in eV, kept in float64 whatever the model's precision."""

    energies: Tensor

    def __init__(self, energies: dict[int, float]) -> None:
        super().__init__()
        table = torch.full((_N_ELEMENTS,), torch.nan, dtype=torch.float64)
        for z, energy in energies.items():
            table[z] = energy
        self.register_buffer("energies", table, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ReferenceEnergies:
        exact = self.energies
        super()._apply(fn, recurse)
        self.energies = exact.to(self.energies.device)
        return self

    def forward(self, z: Tensor) -> Tensor:
        """(N,) float64 energies in eV of atomic numbers (N,)."""
        return self.energies[z]

    def as_dict(self) -> dict[int, float]:
        """Energies in eV by atomic number."""
        return {z: e for z, e in enumerate(self.energies.tolist()) if math.isfinite(e)}


class ZBL(nn.Module):
    """Screened repulsion of nuclei at short range.

    Ziegler, Biersack and Littmark, *The Stopping and Range of Ions in Matter* (1985): the universal
    screening function, switched off smoothly (value and two derivatives) at `radius_factor` times
    the sum of covalent radii, inside every bond, so that it acts only where data are missing.
    """

    radii: Tensor
    coefficients: Tensor
    exponents: Tensor

    COULOMB = 14.399645  # e²/(4πε0) in eV Å
    BOHR = 0.529177211

    def __init__(self, radius_factor: float = 0.75) -> None:
        super().__init__()
        self.radius_factor = radius_factor
        radii = torch.tensor(covalent_radii[:_N_ELEMENTS], dtype=torch.float64)
        self.register_buffer("radii", radii, persistent=False)
        c = torch.tensor([0.18175, 0.50986, 0.28022, 0.02817], dtype=torch.float64)
        d = torch.tensor([3.19980, 0.94229, 0.40290, 0.20162], dtype=torch.float64)
        self.register_buffer("coefficients", c, persistent=False)
        self.register_buffer("exponents", d, persistent=False)

    def forward(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        """(N,) repulsion in eV, half of each pair at either atom."""
        i, j = graph.edge_index
        z_i, z_j = graph.z[i], graph.z[j]
        cutoff = self.radius_factor * (self.radii[z_i] + self.radii[z_j]).to(edge_vec.dtype)
        near = torch.nonzero(edge_vec.detach().square().sum(1) < cutoff.square()).flatten()
        if not len(near):
            return edge_vec.new_zeros(graph.n_atoms)
        i, z_i, z_j, cutoff = i[near], z_i[near], z_j[near], cutoff[near]
        distance = edge_vec[near].norm(dim=1)
        charge_i, charge_j = z_i.to(distance.dtype), z_j.to(distance.dtype)
        length = 0.8854 * self.BOHR / (charge_i**0.23 + charge_j**0.23)
        exponents = self.exponents * (distance / length).unsqueeze(1)
        screening = (self.coefficients * torch.exp(-exponents)).sum(1)
        x = distance / cutoff
        envelope = 1 - x**3 * (10 - 15 * x + 6 * x**2)
        pair = self.COULOMB * charge_i * charge_j / distance * screening * envelope
        return segment_sum(0.5 * pair, i, graph.n_atoms)
