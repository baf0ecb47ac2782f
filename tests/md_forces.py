"""Forces for replicas of one structure whose ensembles are known exactly."""

from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlff2d.md.dynamics.state import MDState
from mlff2d.md.evaluator import Evaluation
from mlff2d.md.slabs import Slabs, join, one_slab


def replicas(atoms: Atoms, n: int, first: int = 0) -> Slabs:
    """n replicas with keys from `first` on."""
    return join([one_slab(atoms, first + k) for k in range(n)])


def triangular(n: int = 3, a: float = 3.0) -> Atoms:
    """n x n atoms of a flat triangular lattice, alternately heavy and light, pbc TTF."""
    cell = [[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 12]]
    atoms = Atoms("C", [[0, 0, 6]], cell=cell, pbc=(True, True, False)) * (n, n, 1)
    atoms.numbers[::2] = 42
    return atoms


def evaluation(energy, forces, virial, troubles=None) -> Evaluation:
    """From tensors alone; no edges are counted."""
    n_edges = torch.zeros(len(energy), dtype=torch.int64)
    return Evaluation(energy, forces, virial, troubles=troubles or {}, n_edges=n_edges)


class Springs:
    """Every atom tied to its six neighbours: k d²/2 + quartic d⁴/4 for each bond of length d.

    Without the quartic term the forces are harmonic whatever the cell, the momentum is conserved,
    and x, y and z have the same modes.
    """

    def __init__(self, n: int = 3, stiffness: float = 2.0, quartic: float = 0.0) -> None:
        self.stiffness, self.quartic = stiffness, quartic
        grid = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2)
        step = np.array([[1, 0], [0, 1], [1, 1]])
        to = grid[:, None] + step  # (n², 3, 2), neighbours before they are folded back
        self.i = torch.arange(n * n).repeat_interleave(3)
        self.j = torch.from_numpy((to[..., 0] % n * n + to[..., 1] % n).ravel())
        shift = torch.from_numpy((to // n).reshape(-1, 2)).double()
        self.shift = torch.cat([shift, torch.zeros(len(shift), 1).double()], 1)
        self.n = n * n

    def __call__(self, slabs: Slabs) -> Evaluation:
        """All replicas at once; bit for bit the same whichever they are."""
        pos = slabs.pos.view(-1, self.n, 3)
        images = (self.shift[:, :, None] * slabs.cell[:, None]).sum(2)
        d = pos[:, self.j] - pos[:, self.i] + images
        square = (d**2).sum(2, keepdim=True)
        pull = (self.stiffness + self.quartic * square) * d
        forces = torch.zeros_like(pos).index_add(1, self.i, pull).index_add(1, self.j, -pull)
        energy = self.stiffness / 2 * square + self.quartic / 4 * square**2
        virial = (pull[:, :, :, None] * d[:, :, None, :]).sum(1)
        return evaluation(energy.sum((1, 2)), forces.view(-1, 3), virial)

    def frequencies(self, masses: Tensor) -> Tensor:
        """(3 n² - 3,) angular frequencies in ASE's unit, with the quartic term left out."""
        hessian = torch.zeros(self.n, self.n, dtype=torch.float64)
        for i, j in zip(self.i.tolist(), self.j.tolist(), strict=True):
            hessian[i, i] += self.stiffness
            hessian[j, j] += self.stiffness
            hessian[i, j] -= self.stiffness
            hessian[j, i] -= self.stiffness
        root = masses[: self.n].sqrt()
        square = torch.linalg.eigvalsh(hessian / root[:, None] / root)
        assert abs(square[0]) < 1e-12, "the translation"
        return square[1:].sqrt().repeat_interleave(3)


def cell_energy(energy: Callable[[Tensor], Tensor]) -> Callable[[Slabs], Evaluation]:
    """Atoms that feel nothing, in cells that have an energy (S,) by their lattice (S, 2, 2)."""

    def evaluate(slabs: Slabs) -> Evaluation:
        strain = torch.zeros(slabs.n_structures, 2, 2, dtype=torch.float64, requires_grad=True)
        lattice = slabs.cell[:, :2, :2] @ (torch.eye(2, dtype=torch.float64) + strain)
        found = energy(lattice)
        virial = torch.zeros(slabs.n_structures, 3, 3, dtype=torch.float64)
        virial[:, :2, :2] = torch.autograd.grad(found.sum(), strain)[0]
        return evaluation(found.detach(), torch.zeros_like(slabs.pos), virial)

    return evaluate


def run(integrator, state: MDState, evaluate, steps: int) -> MDState:
    """The state so many steps later."""
    for _ in range(steps):
        state = integrator.step(state, evaluate)
    return state
