"""A potential under which layers of MX2 are at rest, and a toy of DFT that it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from torch import Tensor, nn

from mlff2d import checkpoint
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.graph import Graph
from mlff2d.md.relaxation.batch import relax_many
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.models.base import EnergyModel
from mlff2d.nn.scatter import segment_sum
from mlff2d.potential import Potential
from mlff2d.training.alloys.config import AlloyConfig
from mlff2d.training.alloys.method import Answers, Task
from mlff2d.training.alloys.methods import load_method
from mlff2d.training.alloys.splits import splits
from mlff2d.training.alloys.system import Configuration, System, build_system
from mlff2d.training.generation.alloys import Alloy, Sublattice, distinct
from tests.alloys import ENDS, system_config

STRENGTHS = {"S": 0.1, "Mo": -0.2, "W": 0.25, "Nb": 0.0}


@dataclass(frozen=True)
class LayerNetConfig:
    """Elements; Å."""

    elements: tuple[int, ...] = (16, 41, 42, 74)
    cutoff: float = 4.5


class LayerNet(EnergyModel):
    """Morse's potential between all atoms; an element has a strength, a pair the product of both.

    Metal and sulfur are at rest 2.41 Å apart, equal kinds 3.18 Å. An element also has a constant,
    without which reference energies that are wrong could not be mended.
    """

    Config = LayerNetConfig
    n_features = 2

    def __init__(self, config: LayerNetConfig) -> None:
        super().__init__()
        self.config, self.cutoff = config, config.cutoff
        self.strength = nn.Embedding(95, 1)
        nn.init.normal_(self.strength.weight, std=0.3)
        self.constant = nn.Embedding(95, 1)
        nn.init.zeros_(self.constant.weight)
        self.readout = nn.Linear(2, 1, bias=False)
        nn.init.constant_(self.readout.weight, 0.5)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        i, j = graph.edge_index
        r = edge_vec.norm(dim=1, keepdim=True)
        bonded = (graph.z[i] == 16) != (graph.z[j] == 16)
        length = torch.where(bonded[:, None], 2.41, 3.18).to(r.dtype)
        x = torch.exp(-1.5 * (r - length))
        fade = (1 - (r / self.cutoff).clamp(max=1) ** 2) ** 3
        depth = torch.exp(self.strength(graph.z[i]) + self.strength(graph.z[j]))
        bonds = segment_sum(depth * (x**2 - 2 * x) * fade, i, graph.n_atoms)
        return torch.cat([bonds, self.constant(graph.z)], dim=1)


def layer_potential(strengths: dict[str, float], zero: dict[str, float] | None = None) -> Potential:
    """In float64, with reference energies."""
    torch.manual_seed(0)
    net = LayerNet(LayerNetConfig())
    with torch.no_grad():
        for symbol, strength in strengths.items():
            net.strength.weight[Atoms(symbol).numbers[0]] = strength
    zero = zero or {}
    references = {int(Atoms(s).numbers[0]): zero.get(s, 0.0) for s in ("S", "Mo", "W", "Nb")}
    return Potential(net, references, zbl=False).double().eval()


def write_start(path: Path, shift: float = 0.15, zero: float = 1.7) -> str:
    """A potential that is the toy's but for strengths of the metals and its zero, in a file."""
    strengths = STRENGTHS | {"Mo": STRENGTHS["Mo"] + shift, "W": STRENGTHS["W"] - shift}
    checkpoint.save(layer_potential(strengths, {"S": zero, "Mo": -zero, "W": 2 * zero}), path)
    return str(path)


def relax(structures: Any, potential: Potential, **settings: Any) -> Any:
    """What the hook is in the program."""
    return relax_many(structures, potential, RelaxSettings(**settings))


def labelled(atoms: Atoms, potential: Potential, name: str) -> Atoms:
    """A frame with energy, forces and stress."""
    made = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    made.cell[2] = (0, 0, 16.0)
    made.calc = MLFF2DCalculator(potential)
    results = {
        "energy": made.get_potential_energy(),
        "forces": made.get_forces(),
        "stress": made.get_stress(),
    }
    made.calc = SinglePointCalculator(made, **results)
    made.info["config"] = name
    return made


def toy_frames(
    folder: Path, species: tuple[str, ...] = ("Mo", "W"), max_sites: int = 3, rattled: int = 2
) -> list[Atoms]:
    """Each distinct cell relaxed, and rattled, with the labels of the toy."""
    truth = layer_potential(STRENGTHS, ENDS)
    parent = ase.io.read(system_config(folder, species).parent)
    cells = list(distinct(Alloy(parent, [Sublattice("Mo", species)], phase="1H"), max_sites))
    settings = RelaxSettings(fmax=1e-3, smax=1e-3, optimizer="lbfgs")
    frames = []
    for k, result in sorted(relax_many(cells, truth, settings), key=lambda pair: pair[0]):
        assert not isinstance(result, Exception)
        assert result.met
        name = str(cells[k].info["config"])
        frames.append(labelled(result.atoms, truth, name))
        for seed in range(rattled):
            moved = result.atoms.copy()
            moved.rattle(0.08, seed=10 * k + seed)
            frames.append(labelled(moved, truth, name))
    return frames


def toy_system(folder: Path, frames: list[Atoms], species: tuple[str, ...] = ("Mo", "W")) -> System:
    """MoWS2, as if the toy were DFT."""
    return build_system(system_config(folder, species), frames, 0.1, 0.5)


def make_task(config: AlloyConfig, systems: Iterable[System], number: int = 0) -> Task:
    """A split of the study; the folder has the split's number."""
    named = {system.name: system for system in systems}
    configurations = [one for system in named.values() for one in system.with_dft]
    split = splits(configurations, config.splits, config.seed)[number]
    asked = [*split.train, *split.test]
    return Task(config, named, split.train, asked, config.run_dir / str(number), number)


def with_method(task: Task, name: str) -> Task:
    """The same in the method's own folder."""
    return replace(task, folder=task.folder / name)


def config_of(folder: Path, starts: list[str], **potentials: Any) -> AlloyConfig:
    how = {"starts": starts, "steps": 120, "energy_steps": 40, "lr": 4e-2} | potentials
    systems = [{"parent": folder / "MoS2.extxyz", "sublattice": "Mo", "species": ["Mo", "W"]}]
    run = {"run_dir": folder / "run", "device": "cpu", "threads": 1, "dtype": "float64"}
    return AlloyConfig.model_validate({**run, "systems": systems, "potentials": how})


def answer(name: str, task: Task) -> Answers:
    return load_method(name)(with_method(task, name))


def with_nonsense(task: Task, geometry: bool = True) -> Task:
    """The same, what DFT says of held-out configurations replaced by nonsense wherever it stands.

    Without `geometry` the frames of DFT stay where they are, and only its labels are nonsense.
    """
    train = {(one.system, one.name) for one in task.train}
    known = [one for system in task.systems.values() for one in system.configurations]
    told = {
        (one.system, one.name): one
        if one.relaxed is None or (one.system, one.name) in train
        else _nonsense(one, k, geometry)
        for k, one in enumerate([*known, *task.asked])
    }
    asked = [told[one.system, one.name] for one in task.asked]
    systems = {
        name: replace(one, configurations=[told[name, c.name] for c in one.configurations])
        for name, one in task.systems.items()
    }
    return replace(task, asked=asked, systems=systems)


def _nonsense(one: Configuration, k: int, geometry: bool) -> Configuration:
    def wrong(frame: Atoms) -> Atoms:
        made = deepcopy(frame)
        if geometry:
            made.set_cell(made.cell.array * [1.1, 1.1, 1.0], scale_atoms=True)
            made.rattle(0.3, seed=k)
        results = {key: np.asarray(value) * 3.0 + k for key, value in frame.calc.results.items()}
        made.calc = SinglePointCalculator(made, **results | {"energy": 1e3 + k})
        return made

    assert one.relaxed is not None
    frames = tuple(wrong(frame) for frame in one.frames)
    return replace(one, relaxed=wrong(one.relaxed), energy=1e3 + k, frames=frames)


def formation(answers: Answers) -> dict[tuple[str, str], float]:
    """By configuration, eV per shared site."""
    return {key: answer.formation for key, answer in answers.of.items()}


Method = Callable[[Task], Answers]
