"""Formation energies of configurations learnt at once: Gauss-Newton steps of all weights.

Training by gradients leaves formation energies for last: they are small differences, and hang on
the directions in which the loss is flattest, so that those of configurations learnt from err as
much as others. A step dw is the least

    |E_f(w) + J dw - E_f(DFT)|^2 / ENERGY^2 + |P dw|^2 + |dw|^2 / LENGTH^2

with J the derivatives of formation energies by the weights, and P those of some random sums of
forces over FORCE and of in-plane stresses over STRESS in every frame: what it knows of these it
shall not forget. Solved with as many unknowns as equations, as the weights are far more: kernel
regression with the tangent kernel (Jacot, Gabriel and Hongler, *Neural Tangent Kernel*, NeurIPS
2018). In the end reference energies of elements move to where energies of the same structures have
no mean error.

Axes: C configurations, M mixtures among them, K random sums, W weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from mlff2d.atoms import to_graph
from mlff2d.graph import Graph
from mlff2d.potential import Potential
from mlff2d.slab import batched_stress_2d

from ..finetuning.start import apply_shift
from .frames import energy_of
from .system import Configuration

ENERGY, FORCE, STRESS = 3e-4, 0.01, 0.1
"""eV per shared site, eV/Å and N/m that weigh as much as each other."""

LENGTH = 0.03
"""A change of all weights that weighs as much; of much longer ones the derivatives know nothing."""

SUMS = 5
"""Random sums for each frame."""

FRAMES = 60
"""Most frames with such sums, drawn at random: the memory is that of so many times `SUMS` copies of
the weights."""


def learn_formation(
    potential: Potential, configurations: Sequence[Configuration], steps: int, seed: int
) -> None:
    """Move the weights of a potential, in place, by so many steps.

    Formation energies are learnt from the structures that DFT relaxed, of mixtures against end
    members of their systems; nothing changes where there is no mixture with all of them.
    """
    known = [one for one in configurations if one.relaxed is not None]
    mixing = _mixing(known)
    if not len(mixing):
        return
    frames = list({id(frame): frame for one in configurations for frame in one.frames}.values())
    rng = np.random.default_rng(seed)
    drawn = [frames[k] for k in sorted(rng.permutation(len(frames))[:FRAMES])]
    weights = list(potential.requires_grad_(True).parameters())
    matrix = torch.from_numpy(mixing).to(weights[0])
    target = matrix @ matrix.new_tensor([one.energy for one in known])
    for _ in range(steps):
        energies, rows = zip(*[_energy(potential, one, weights) for one in known], strict=True)
        left = target - matrix @ torch.stack(energies)
        kept = [row for frame in drawn for row in _sums(potential, frame, weights, rng)]
        A = torch.cat([matrix @ torch.stack(rows) / ENERGY, torch.stack(kept)])  # (M + K, W)
        kernel = A @ A.T
        kernel.diagonal().add_(LENGTH**-2)
        wanted = torch.cat([left / ENERGY, left.new_zeros(len(kept))])
        change = A.T @ torch.linalg.solve(kernel, wanted)
        with torch.no_grad():
            parts = change.split([weight.numel() for weight in weights])
            for weight, part in zip(weights, parts, strict=True):
                weight.add_(part.view_as(weight))
    potential.requires_grad_(False)
    apply_shift(potential, _shift(potential, known))


def _shift(potential: Potential, known: Sequence[Configuration]) -> dict[int, float]:
    """eV by atomic number: least squares on what is left of the energies of relaxed structures."""
    relaxed = [one.relaxed for one in known if one.relaxed is not None]
    elements = sorted({int(z) for atoms in relaxed for z in atoms.numbers})
    counts = np.array([[list(atoms.numbers).count(z) for z in elements] for atoms in relaxed])
    said = [potential(_graph(potential, one), forces=False, virial=False).energy for one in relaxed]
    left = np.array([energy_of(one) - float(e) for one, e in zip(relaxed, said, strict=True)])
    n = counts.sum(1)
    found = np.linalg.lstsq(counts / n[:, None], left / n, rcond=None)[0]
    return dict(zip(elements, found.tolist(), strict=True))


def _mixing(known: Sequence[Configuration]) -> NDArray[np.float64]:
    """(M, C) from energies per shared site of all to formation energies of mixtures."""
    ends = {(one.system, one.end_member): k for k, one in enumerate(known) if one.end_member}
    rows = []
    for k, one in enumerate(known):
        shares = {species: x for species, x in one.shares.items() if x}
        if one.end_member or any((one.system, species) not in ends for species in shares):
            continue
        row = np.zeros(len(known))
        row[k] = 1.0
        for species, x in shares.items():
            row[ends[one.system, species]] -= x
        rows.append(row)
    return np.array(rows)


def _graph(potential: Potential, atoms: Atoms) -> Graph:
    device = next(potential.parameters()).device
    return to_graph(atoms, potential.cutoff, potential.model.state).to(device)


def _energy(
    potential: Potential, one: Configuration, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """eV per shared site of the structure that DFT relaxed, and its derivatives (W,)."""
    assert one.relaxed is not None
    total = potential(_graph(potential, one.relaxed), forces=False, virial=False).energy[0]
    symbols = list(one.relaxed.symbols)  # of a cell that need not be that of `ideal`
    per_site = total / sum(symbols.count(species) for species in one.shares)
    return per_site.detach(), _derivatives(per_site, weights)


def _sums(
    potential: Potential, frame: Atoms, weights: Sequence[Tensor], rng: np.random.Generator
) -> Iterable[Tensor]:
    """Derivatives (W,) of random sums of forces and stresses, on average as large as these."""
    graph = _graph(potential, frame)
    found = potential(graph, create_graph=True)
    stress = batched_stress_2d(found.virial, graph.cell, graph.pbc)
    known = torch.cat([found.forces.flatten() / FORCE, stress.flatten() / STRESS])
    signs = rng.choice([-1.0, 1.0], (SUMS, len(known))) / np.sqrt(SUMS)
    for sign in torch.from_numpy(signs).to(known):
        yield _derivatives(sign @ known, weights, again=True)


def _derivatives(value: Tensor, weights: Sequence[Tensor], again: bool = False) -> Tensor:
    """(W,) of a number; zero of weights that it does not depend on."""
    found = torch.autograd.grad(value, weights, retain_graph=again, allow_unused=True)
    parts = [
        torch.zeros_like(weight) if part is None else part
        for weight, part in zip(weights, found, strict=True)
    ]
    return torch.cat([part.flatten() for part in parts])
