"""Dynamics of sheets of copper in a moment.

`python -m tests.md_morse FOLDER SUFFIX STEPS` moves some of them, saving after every step.
"""

import sys
from pathlib import Path

import torch
from ase import Atoms

from mlff2d.md.dynamics.result import MDResult
from mlff2d.md.dynamics.run import run_md
from mlff2d.md.dynamics.settings import MDSettings
from tests.standins import morse, sheet

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
