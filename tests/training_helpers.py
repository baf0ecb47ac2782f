"""Small labelled structures and a small model, so that training is tested in seconds."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from torch import Tensor, nn

from mlff2d import checkpoint
from mlff2d.graph import Graph
from mlff2d.models.base import EnergyModel
from mlff2d.nn.scatter import segment_sum
from mlff2d.training import loop
from mlff2d.training.sections import Config

METALS = ("Cu", "Ag", "Au", "Ni", "Pd", "Pt")


def monolayer(first: str, second: str, rng: np.random.Generator) -> Atoms:
    """A rattled square monolayer of two metals with energy, forces and stress of EMT."""
    atoms = Atoms(
        [first, second],
        scaled_positions=[(0, 0, 0.5), (0.5, 0.5, 0.5)],
        cell=[3.8, 3.8, 15.0],
        pbc=(True, True, False),
    )
    strain = np.eye(3)
    strain[:2, :2] += rng.normal(scale=0.02, size=(2, 2))
    atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
    atoms.positions += rng.normal(scale=0.08, size=(2, 3))
    atoms.info["material"] = f"{first}-{second}"
    atoms.calc = EMT()
    labels = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def monolayers(n_each: int = 2, seed: int = 0) -> list[Atoms]:
    """`n_each` frames of each of the 36 ordered pairs of metals, in random order."""
    return deepcopy(_monolayers(n_each, seed))


@cache
def _monolayers(n_each: int, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = [monolayer(a, b, rng) for a in METALS for b in METALS for _ in range(n_each)]
    return [frames[k] for k in rng.permutation(len(frames))]


def partly_labelled() -> list[Atoms]:
    """One frame of each of 36 materials; two have no forces, two no stress, one of them neither."""
    frames = monolayers(1)
    for k, atoms in enumerate(frames):
        results = dict(atoms.calc.results)
        if k in (3, 5):
            del results["forces"]
        if k in (4, 5):
            del results["stress"]
        atoms.calc = SinglePointCalculator(atoms, **results)
    return frames


def write_monolayers(path: Path, n_each: int = 2) -> Path:
    """The same as a file."""
    ase.io.write(path, monolayers(n_each))
    return path


def die_after(steps: int, config: Config, monkeypatch: pytest.MonkeyPatch, **how: Any) -> None:
    """Train until the process dies in the step after so many; `how` goes to `train`."""
    original, done = loop._step, []

    def step_or_die(*args: Any) -> float:
        if len(done) == steps:
            raise Killed
        done.append(1)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", step_or_die)
        with pytest.raises(Killed):
            loop.train(config, **how)


@dataclass(frozen=True)
class PairNetConfig:
    """Settings of the model below."""

    elements: tuple[int, ...] = tuple(range(1, 95))
    cutoff: float = 4.0
    width: int = 16


class PairNet(EnergyModel):
    """A sum over pairs: a perceptron of both elements and the distance. Quick, nothing more."""

    Config = PairNetConfig
    n_features = 32

    def __init__(self, config: PairNetConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = config.cutoff
        self.element = nn.Embedding(95, config.width)
        self.layers = nn.Sequential(
            nn.Linear(config.width + 4, 32),
            nn.SiLU(),
            nn.Linear(32, 32),
            nn.SiLU(),
        )
        self.readout = nn.Linear(32, 1, bias=False)

    def features(self, graph: Graph, edge_vec: Tensor) -> Tensor:
        i, j = graph.edge_index
        x = edge_vec.norm(dim=1, keepdim=True) / self.cutoff
        radial = torch.cat([x.pow(k) for k in range(1, 5)], dim=1)
        pair = self.element(graph.z[i]) * self.element(graph.z[j])
        envelope = (1 - x.clamp(max=1) ** 2) ** 3
        return segment_sum(
            self.layers(torch.cat([pair, radial], dim=1)) * envelope, i, graph.n_atoms
        )


def small_config(run_dir: Path, data: Path, **train: object) -> Config:
    """A run of the small model on a data file; keywords change the section `train`."""
    settings = {
        "run_dir": run_dir,
        "data": {"files": [data]},
        "split": {"val": 0.15, "test": 0.15},
        "model": {"name": "pairnet"},
        "priors": {"zbl": False},
        "loss": {"kind": "huber"},
        "train": {
            "epochs": 3,
            "batch_size": 8,
            "lr": 5e-3,
            "ema": 0.9,
            "device": "cpu",
            "threads": 1,
        }
        | train,
    }
    return Config.model_validate(settings)


def config_of(run_dir: Path, data: Path, sections: dict[str, dict[str, object]]) -> Config:
    """The small run with some settings changed, section by section."""
    settings = small_config(run_dir, data).resolved()
    for name, values in sections.items():
        settings[name] = settings[name] | values
    return Config.model_validate(settings)


class Killed(BaseException):
    """Stands for a process that ends without a chance to clean up."""


def contents(run_dir: Path) -> dict[str, object]:
    """All that a run leaves and that must not depend on how often it was stopped."""
    state = torch.load(run_dir / "state.pt", weights_only=True)
    for key in ("settings", "seconds"):
        del state[key]
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]
    weights = {
        name: checkpoint.read(run_dir / f"{name}.pt")["weights"] for name in ("best", "last")
    }
    metrics = json.loads((run_dir / "metrics.json").read_text())
    return {"state": state, "rows": rows, "weights": weights, "metrics": metrics}


def assert_equal(ours: object, theirs: object) -> None:
    """Equal to the bit, through dicts and lists."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, (list, tuple)):
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b)
    else:
        assert ours == theirs
