"""What fine-tuning did to what a model had learnt before.

Either errors on held-out data of the original kind, or, where there are none, how far predictions
have moved on prototypes of other compounds that ASE builds.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass

import numpy as np
import torch
from ase import Atoms
from ase.build import graphene, mx2
from numpy.typing import NDArray

from mlff2d.atoms import to_graph
from mlff2d.graph import collate
from mlff2d.potential import Potential, Prediction

from ..distributed import main_first
from ..metrics import EnergyMetrics, evaluate
from ..setup import Run
from .replay import held_out
from .start import apply_shift

_HEXAGONAL = {"C2": 2.46, "BN": 2.50, "Si2": 3.87, "GaN": 3.21, "AlN": 3.13, "SiC": 3.10}
_MX2 = {
    "2H": {"MoS2": (3.18, 3.13), "MoSe2": (3.32, 3.34), "MoTe2": (3.55, 3.61), "WSe2": (3.32, 3.35)}
    | {"NbSe2": (3.47, 3.36), "VSe2": (3.34, 3.20), "CrS2": (3.04, 2.95)},
    "1T": {"TiSe2": (3.53, 3.06), "ZrS2": (3.68, 2.90), "HfSe2": (3.76, 3.16), "PtS2": (3.57, 2.46)}
    | {"PtSe2": (3.75, 2.62), "SnS2": (3.69, 2.95), "SnSe2": (3.87, 3.18), "NiTe2": (3.78, 2.65)}
    | {"MgBr2": (3.86, 2.90), "CdI2": (4.32, 3.42), "FeCl2": (3.49, 2.72), "PbI2": (4.61, 3.72)},
}
"""Lattice constant, and thickness between the outer layers, in Å and only roughly: what counts is
that two models see the same."""

_STRAINS = np.linspace(-0.04, 0.04, 9)
_RATTLED = (0.05, 0.10)  # Å, standard deviation of a displacement


@dataclass(frozen=True)
class Change:
    """How far predictions moved, as means of absolute differences.

    Attributes
    ----------
    n_compounds : prototypes with an element that the new data do not have
    energy : eV/atom, reference energies put back to those of the start
    forces : eV/Å, over components
    area : relative, of the cell at the least energy under equal strain along both axes
    """

    n_compounds: int
    energy: float
    forces: float
    area: float


@dataclass(frozen=True)
class Forgetting:
    """Errors of the start and after fine-tuning on old held-out data, or a change without such."""

    n_frames: int
    before: EnergyMetrics | None = None
    after: EnergyMetrics | None = None
    change: Change | None = None

    def as_dict(self) -> dict[str, object]:
        """Primitives, what is absent left out."""
        found: dict[str, object] = {"frames": self.n_frames}
        if self.before is not None and self.after is not None:
            found |= {"before": self.before.as_dict(), "after": self.after.as_dict()}
        return found | ({} if self.change is None else {"change": asdict(self.change)})


def forgetting(run: Run, tuned: Potential) -> Forgetting:
    """What a fine-tuned model has forgotten of what the start of the run knew."""
    assert run.start is not None
    assert run.shift is not None
    assert isinstance(run.start.module, Potential)
    back = {z: -energy for z, energy in run.shift.energies.items()}
    models = (deepcopy(run.start.module), deepcopy(tuned))
    for model in models:
        apply_shift(model, back)
    finetune = run.config.finetune
    if finetune is not None and finetune.old:
        with main_first():
            old, batches = held_out(finetune.old, run.config, run.start)
        before, after = (evaluate(m, old.data, batches, run.config.loss) for m in models)
        return Forgetting(sum(map(len, batches)), before, after)
    structures = prototypes(models[0].elements, run.shift.energies)
    if not structures:
        return Forgetting(0)
    change = change_between(*models, structures)
    return Forgetting(len(structures) * (1 + len(_RATTLED)), change=change)


def prototypes(known: Iterable[int], new: Iterable[int]) -> list[Atoms]:
    """Monolayers of elements that a model knows, not all of which are in the new data."""
    known, new = set(known), set(new)
    built = [graphene(formula, a=a, thickness=0.0, vacuum=8.0) for formula, a in _HEXAGONAL.items()]
    for kind, compounds in _MX2.items():
        for formula, (a, thickness) in compounds.items():
            built.append(mx2(formula, kind, a, thickness, vacuum=8.0))
    found = []
    for atoms in built:
        atoms.pbc = (True, True, False)
        if set(atoms.numbers.tolist()) <= known and not set(atoms.numbers.tolist()) <= new:
            found.append(atoms)
    return found


def change_between(before: Potential, after: Potential, structures: list[Atoms]) -> Change:
    """How far two models are from each other on prototypes, their rattled copies and areas."""
    frames = [_rattled(atoms, size) for atoms in structures for size in (0.0, *_RATTLED)]
    old, new = (_predict(model, frames) for model in (before, after))
    n_atoms = torch.tensor([len(atoms) for atoms in frames], device=old.energy.device)
    assert old.forces is not None
    assert new.forces is not None
    areas = [[_area(model, atoms) for atoms in structures] for model in (before, after)]
    return Change(
        n_compounds=len(structures),
        energy=float(((new.energy - old.energy) / n_atoms).abs().mean()),
        forces=float((new.forces - old.forces).abs().mean()),
        area=float(np.abs(np.array(areas[1]) / np.array(areas[0]) - 1).mean()),
    )


def _rattled(atoms: Atoms, size: float) -> Atoms:
    copy = atoms.copy()
    copy.rattle(size, rng=np.random.RandomState(0))
    return copy


def _predict(model: Potential, frames: list[Atoms]) -> Prediction:
    graphs = [to_graph(atoms, model.cutoff, model.model.state) for atoms in frames]
    device = next(model.parameters()).device
    batch = collate(graphs).to(dtype=model.dtype).to(device)
    return model(batch, virial=False, create_graph=False)


@torch.no_grad()
def _area(model: Potential, atoms: Atoms) -> float:
    """Area over that of the structure as built, where a parabola has its least energy, Å²/Å²."""
    frames = []
    for strain in _STRAINS:
        copy = atoms.copy()
        factors = np.array([1 + strain, 1 + strain, 1.0])
        copy.set_cell(atoms.cell[:] * factors, scale_atoms=True)
        frames.append(copy)
    energies: NDArray[np.float64] = _predict(model, frames).energy.detach().cpu().numpy()
    middle = int(np.clip(energies.argmin(), 2, len(_STRAINS) - 3))
    near = slice(middle - 2, middle + 3)
    curvature, slope, _ = np.polyfit(_STRAINS[near], energies[near], 2)
    best = -slope / (2 * curvature) if curvature > 0 else _STRAINS[energies.argmin()]
    return float((1 + np.clip(best, -0.1, 0.1)) ** 2)
