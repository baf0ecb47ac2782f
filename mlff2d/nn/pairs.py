"""Functions of a distance and of the two elements at its ends.

Axes: E edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlff2d.nn.constant import Constant


class AgnesiTransform(nn.Module):
    """Distances squeezed into (0, 1), steepest where two elements are bonded.

    u(r) = 1 / (1 + a s^q / (1 + s^(q - p))) with s = r / r_0 and r_0 the mean of the two covalent
    radii. Witt et al., "ACEpotentials.jl", J. Chem. Phys. 159, 164101 (2023), the constants those
    of MACE-MP-0b.

    Parameters
    ----------
    radii
        Covalent radii in Å by atomic number, from 0 on.
    """

    A, Q, P = 1.0805, 0.9183, 4.5791

    def __init__(self, radii: Sequence[float]) -> None:
        super().__init__()
        self.radii = Constant(torch.tensor(radii, dtype=torch.float64))

    def forward(self, r: Tensor, z_receiver: Tensor, z_neighbour: Tensor) -> Tensor:
        """(E,) distances in Å, greater than 0, and atomic numbers -> (E,)."""
        radii = self.radii(r)
        s = 2.0 * r / (radii[z_receiver] + radii[z_neighbour])
        return 1.0 / (1.0 + self.A * s**self.Q / (1.0 + s ** (self.Q - self.P)))


class PairRepulsion(nn.Module):
    """The screened repulsion of nuclei as MACE-MP-0b has it, which ends at bond lengths.

    Ziegler, Biersack and Littmark, *The Stopping and Range of Ions in Matter* (1985), with rounded
    constants, times the polynomial envelope on the sum of the covalent radii. The prior `ZBL` of a
    potential is the same idea, and ends inside every bond.

    Parameters
    ----------
    radii
        Covalent radii in Å by atomic number, from 0 on.
    envelope
        Falls from 1 at 0 to 0 at 1.
    """

    COULOMB = 14.3996  # eV Å
    BOHR = 0.529  # Å
    LENGTH = 0.4543 * BOHR
    POWER = 0.300
    TERMS = ((0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4028), (0.02817, 0.2016))

    def __init__(self, radii: Sequence[float], envelope: nn.Module) -> None:
        super().__init__()
        self.radii = Constant(torch.tensor(radii, dtype=torch.float64))
        self.envelope = envelope

    def forward(self, r: Tensor, z_receiver: Tensor, z_neighbour: Tensor) -> Tensor:
        """(E,) distances in Å, greater than 0, and atomic numbers -> (E,) half of it in eV."""
        radii = self.radii(r)
        charge_i, charge_j = z_receiver.to(r.dtype), z_neighbour.to(r.dtype)
        x = r * (charge_i**self.POWER + charge_j**self.POWER) / self.LENGTH
        screening = sum(factor * torch.exp(-rate * x) for factor, rate in self.TERMS)
        falloff = self.envelope(r / (radii[z_receiver] + radii[z_neighbour]))
        return 0.5 * self.COULOMB * charge_i * charge_j / r * screening * falloff
