"""Memory of training, and speed of reading, with 10,000 and with 500,000 frames.

    python -m benchmarks.data_memory [--frames 10000 500000] [--workers 0 1 2]

Makes random slabs through the project's own writer, in a temporary folder (0.22 GB for 500,000
frames), and opens each file in a fresh process: to read batches of 32 in random order, and to train
a small model for some time without holding the data in memory. Memory is the peak of the resident
set of that process, Python and torch included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from mlff2d.training.data.batches import iter_batches
from mlff2d.training.data.columns import Columns
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.record import Keys
from mlff2d.training.data.store import ConversionSummary, writing
from mlff2d.training.loop import train
from mlff2d.training.sections import Config

CUTOFF, BATCH, N_BATCHES = 5.0, 32, 300
PER_MATERIAL = 5
ELEMENTS = np.array([6, 7, 8, 16, 22, 34, 41, 42, 52, 73, 74], dtype=np.uint8)


def random_slabs(rng: np.random.Generator, first: int, n: int) -> Columns:
    """`n` slabs of 2 to 8 atoms in three layers of a square lattice, moved a little."""
    n_atoms = rng.integers(2, 9, n)
    structure = np.repeat(np.arange(n), n_atoms)
    k = np.arange(len(structure)) - np.repeat(np.cumsum(n_atoms) - n_atoms, n_atoms)
    a = 3.2 * np.ceil(np.sqrt(n_atoms / 3))
    columns_ = (k // 3, k % 3)
    side = np.ceil(np.sqrt(n_atoms / 3)).astype(int)[structure]
    pos = np.stack([columns_[0] % side, columns_[0] // side, columns_[1]], axis=1) * [3.2, 3.2, 2.2]
    pos = pos + rng.normal(scale=0.1, size=pos.shape)
    cell = np.zeros((n, 3, 3))
    cell[:, 0, 0], cell[:, 1, 1], cell[:, 2, 2] = a, a, 20.0
    forces = rng.normal(size=pos.shape).astype(np.float32)
    virial = rng.normal(size=(n, 3, 3))
    virial = virial + virial.transpose(0, 2, 1)
    numbers = (first + np.arange(n)) // PER_MATERIAL
    names = np.char.add("random-", numbers.astype(str))
    starts = np.cumsum(n_atoms) - n_atoms
    stress = virial[:, [0, 1, 0], [0, 1, 1]] * 16.0 / (a**2)[:, None]
    return {
        "z": ELEMENTS[rng.integers(len(ELEMENTS), size=len(pos))],
        "pos": pos,
        "forces": forces,
        "cell": cell,
        "pbc": np.tile([True, True, False], (n, 1)),
        "virial": virial,
        "state": np.zeros((n, 0)),
        "energy": -5.0 * n_atoms + rng.normal(size=n),
        "target": np.full(n, np.nan),
        "frame": first + np.arange(n),
        "source": np.zeros(n),
        "layer_group": np.ones(n),
        "fingerprint": rng.integers(2**63, size=n, dtype=np.uint64),
        "max_force": np.maximum.reduceat(np.abs(forces).max(1), starts),
        "stress_2d": stress,
        "max_stress_kbar": np.abs(stress).max(1) * 5,
        "material": names,
        "trajectory": names,
        "n_atoms": n_atoms,
    }


def make(path: Path, n: int) -> None:
    """An HDF5 file with so many random slabs."""
    rng = np.random.default_rng(0)
    with writing(path, 0, path.parent) as writer:
        for first in range(0, n, 10_000):
            writer.append(random_slabs(rng, first, min(10_000, n - first)))
        writer.finish(Keys(), [{"name": "random", "sha256": "0"}], ConversionSummary(n, n))


def read(path: Path, workers: int) -> dict[str, float]:
    """Frames per second in random order, and how long opening takes the first time and again."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        data = Dataset(path, CUTOFF, in_memory=False, workers=workers)
        n_edges = int(data.n_edges.sum())
        seconds.append(time.perf_counter() - started)
    order = np.random.default_rng(0).permutation(len(data))[: (N_BATCHES + 4) * BATCH].tolist()
    batches = [order[k : k + BATCH] for k in range(0, len(order), BATCH)]
    loader = iter_batches(data, batches, torch.float32, torch.device("cpu"))
    for _ in range(4):  # the processes have to start
        next(loader)
    started = time.perf_counter()
    n = sum(graph.n_structures for graph, _ in loader)
    speed = n / (time.perf_counter() - started)
    return {
        "frames_per_second": speed,
        "first_open": seconds[0],
        "second_open": seconds[1],
        "edges_per_frame": n_edges / len(data),
    }


def train_for_a_while(path: Path, workers: int, minutes: float) -> None:
    """Train a small model, everything read from the file."""
    config = Config.model_validate(
        {
            "run_dir": path.parent / f"run-{path.stem}",
            "data": {"files": [path], "in_memory": False, "workers": workers},
            "split": {"val": 0.05, "test": 0.05},
            "model": {"name": "painn", "cutoff": CUTOFF, "channels": 16, "n_blocks": 1},
            "train": {"batch_size": BATCH, "max_minutes": minutes, "device": "cpu", "threads": 1},
        }
    )
    train(config, Console(quiet=True))


def in_a_process(*arguments: object) -> dict[str, float]:
    """What this program prints about itself, run with these arguments."""
    command = [sys.executable, "-m", "benchmarks.data_memory", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def peak() -> float:
    """MB of the resident set of this process at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the tables; with `--child` measure one thing and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[10_000, 500_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=0.5, help="of each training")
    parser.add_argument("--child", choices=["read", "train"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        result = read(args.path, args.workers[0]) if args.child == "read" else {}
        if args.child == "train":
            train_for_a_while(args.path, args.workers[0], args.minutes)
        print(json.dumps(result | {"peak": peak()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        for n in args.frames:
            path = Path(folder) / f"{n}.h5"
            started = time.perf_counter()
            make(path, n)
            seconds = time.perf_counter() - started
            print(f"{n:,} frames, {path.stat().st_size / 1e6:.0f} MB, written in {seconds:.0f} s")
            for workers in args.workers:
                figures = in_a_process("--child", "read", "--path", path, "--workers", workers)
                print(
                    f"  {workers} workers: {figures['frames_per_second']:,.0f} frames/s "
                    f"({figures['edges_per_frame']:.0f} edges each), peak {figures['peak']:.0f} MB,"
                    f" opened in {figures['first_open']:.1f} s, again {figures['second_open']:.2f}"
                )
            figures = in_a_process(
                *("--child", "train", "--path", path, "--workers", 0, "--minutes", args.minutes)
            )
            print(f"  training: peak {figures['peak']:.0f} MB")


if __name__ == "__main__":
    main()
