"""A pair potential as a model, and sheets of copper that it holds together: dynamics in a moment.

`python -m tests.md_morse FOLDER SUFFIX STEPS` moves some of them, saving after every step.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from ase import Atoms
from ase.build import fcc111
from torch import nn

from mlff2d.md.dynamics.result import MDResult
from mlff2d.md.dynamics.run import run_md
from mlff2d.md.dynamics.settings import MDSettings
from mlff2d.models.base import EnergyModel
from mlff2d.nn.scatter import segment_sum
from mlff2d.potential import Potential


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


SETTINGS = MDSettings(
    ensemble="langevin",
    timestep=3.0,
    temperature=400.0,
    replicas=2,
    equilibrate=5,
    log_every=3,
    write_every=4,
    last=4,
    thermostat_time=100.0,
    max_temperature=530.0,
)


def move(folder: Path, suffix: str, settings: MDSettings, **how: object) -> MDResult:
    """Two sheets, of which one breaks on the way, and a molecule that cannot move."""
    hot = sheet()
    hot.positions[-1, 2] += 1.2  # falls back, and heats the sheet beyond `max_temperature`
    molecule = Atoms("CuH", [[0, 0, 0], [0, 0, 2]])
    structures = [sheet(), molecule, hot]
    how = {"tell": lambda text: None, **how}
    return run_md(structures, morse(), settings, folder / f"md{suffix}", **how)


if __name__ == "__main__":
    from dataclasses import replace

    torch.set_num_threads(1)
    settings = replace(SETTINGS, steps=int(sys.argv[3]))
    move(Path(sys.argv[1]), sys.argv[2], settings, save_minutes=0.0)
