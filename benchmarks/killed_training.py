"""A training killed at random moments, and whether it ends where an uninterrupted one does.

    python -m benchmarks.killed_training [--data structures.extxyz] [--kills 5] [--seed 0]

Each of a few sets of settings is trained twice by `mlff2d train`, once in one go and once killed
(SIGKILL, no warning) that many times and started again: once while it starts up, then at moments
drawn evenly from the time that it trains. Prints every kill, then whether weights, their mean, the
state of the optimiser, the log and the figures are the same to the bit. The exit status is 0 where
all are.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
import yaml
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlff2d import checkpoint

METALS = ("Cu", "Ag", "Au", "Ni", "Pd", "Pt")
STAGE_TWO = {"epoch": 8, "energy": 10.0, "forces": 1.0, "stress": 0.1, "lr": 1e-4}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "adamw, cosine": {},
    "muon, plateau, two batches a step": {
        "train": {"optimizer": "muon", "schedule": "plateau", "plateau_epochs": 1, "accumulate": 2}
    },
    "stage two": {"loss": {"stage_two": STAGE_TWO}},
}


def write_metals(path: Path, n_frames: int = 240) -> None:
    """Rattled square monolayers of two metals each, with labels of EMT."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(n_frames):
        pair = rng.choice(METALS, 2)
        atoms = Atoms(pair, [(0, 0, 7.5), (1.9, 1.9, 7.5)], cell=[3.8, 3.8, 15], pbc=(1, 1, 0))
        strain = np.eye(3)
        strain[:2, :2] += rng.normal(scale=0.02, size=(2, 2))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += rng.normal(scale=0.08, size=(2, 3))
        atoms.info["material"] = "-".join(pair)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels, stress=atoms.get_stress())
        frames.append(atoms)
    ase.io.write(path, frames)


def write_config(path: Path, run_dir: Path, data: Path, changes: dict[str, dict[str, Any]]) -> None:
    """A small m3gnet whose state is saved about every second."""
    settings: dict[str, Any] = {
        "run_dir": str(run_dir),
        "data": {"files": [str(data)]},
        "model": {"name": "m3gnet", "channels": 16, "n_blocks": 1, "cutoff": 4.5},
        "loss": {"kind": "huber"},
        "train": {
            "epochs": 12,
            "batch_size": 8,
            "ema": 0.99,
            "device": "cpu",
            "threads": 1,
            "save_minutes": 0.02,
        },
    }
    for section, values in changes.items():
        settings[section] |= values
    path.write_text(yaml.safe_dump(settings))


def start(config: Path) -> subprocess.Popen[bytes]:
    """`mlff2d train` in a process of its own, its output kept beside the config."""
    with config.with_suffix(".txt").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "mlff2d.cli", "train", config], stderr=log)


def finish(config: Path) -> float:
    """Train to the end; wall-clock seconds. Raises RuntimeError where that fails."""
    started = time.monotonic()
    if start(config).wait() != 0:
        raise RuntimeError(f"mlff2d train failed:\n{config.with_suffix('.txt').read_text()}")
    return time.monotonic() - started


def kill(config: Path, run_dir: Path, after: float, trains: bool) -> str:
    """Start, kill after so many seconds, of training if `trains`, and say what is left on disk."""
    heads = _heads(config)
    process = start(config)
    while trains and _heads(config) == heads and process.poll() is None:
        time.sleep(0.05)
    time.sleep(after)
    process.kill()
    when = f"after {after:5.1f} s of {'training' if trains else 'starting'}"
    if process.wait() == 0:
        return f"{when}: it had ended already"
    state = run_dir / "state.pt"
    if not state.exists():
        return f"{when}: nothing saved yet"
    content = torch.load(state, map_location="cpu", weights_only=True)
    return f"{when}: epoch {content['epoch'] + 1}, step {content['step']} saved"


def _heads(config: Path) -> int:
    """How often a training with this config has printed the head of its table of epochs."""
    output = config.with_suffix(".txt")
    return output.read_text().count("train loss") if output.exists() else 0


def left_by(run_dir: Path) -> dict[str, Any]:
    """All that a run leaves and that must not depend on how often it was killed."""
    state = torch.load(run_dir / "state.pt", map_location="cpu", weights_only=True)
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return {
        "weights of best.pt": checkpoint.read(run_dir / "best.pt")["weights"],
        "weights of last.pt": checkpoint.read(run_dir / "last.pt")["weights"],
        "weights in training": state["model"],
        "mean of the weights": state["ema"],
        "optimiser": state["optimizer"],
        "random state": state["random"],
        "log": [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows],
        "figures": json.loads((run_dir / "metrics.json").read_text()),
    }


def is_same(ours: Any, theirs: Any) -> bool:
    """Equal to the bit, through dicts and lists."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(is_same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(is_same, ours, theirs))
    return bool(ours == theirs)


def compare(folder: Path, data: Path, name: str, kills: int, rng: random.Random) -> bool:
    """Train both ways with one set of settings and print what came of it; whether all is equal."""
    run_dirs = [folder / "whole" / "run", folder / "killed" / "run"]
    configs = [run_dir.with_suffix(".yaml") for run_dir in run_dirs]
    for config, run_dir in zip(configs, run_dirs, strict=True):
        run_dir.parent.mkdir(parents=True)
        write_config(config, run_dir, data, SETTINGS[name])
    whole = finish(configs[0])
    training = torch.load(run_dirs[0] / "state.pt", weights_only=True)["seconds"]
    print(f"\n{name}: {whole:.0f} s in one go, {training:.0f} s of them training", flush=True)
    for k in range(kills):
        longest = whole - training if k == 0 else training / kills
        where = kill(configs[1], run_dirs[1], rng.uniform(0.0, longest), trains=k > 0)
        print(f"  kill {k + 1} {where}", flush=True)
    finish(configs[1])
    same = {}
    ours, theirs = map(left_by, run_dirs)
    for what in ours:
        same[what] = is_same(ours[what], theirs[what])
        print(f"  {what:22} {'equal to the bit' if same[what] else 'DIFFERENT'}", flush=True)
    return all(same.values())


def main() -> int:
    """Print every kill and comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="labelled structures; default: EMT metals")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "metals.extxyz" if args.data is None else args.data.resolve()
        if args.data is None:
            write_metals(data)
        equal = [
            compare(folder / str(k), data, settings, args.kills, rng)
            for k, settings in enumerate(SETTINGS)
        ]
    print(f"\n{sum(equal)} of {len(equal)} end where the uninterrupted run does, to the bit")
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
