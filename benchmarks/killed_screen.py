"""A screen killed at random moments, and whether it ends as an uninterrupted one does.

    python -m benchmarks.killed_screen [--structures 500] [--kills 20] [--seed 0] [-- OPTIONS]

Small slabs, some of them broken, are relaxed twice by `mlff2d relax` with the shipped model, once
in one go and once killed (SIGKILL, no warning) that many times and started again, at moments drawn
evenly from start-up and work. OPTIONS are handed to both. Prints every kill with what was finished
by then, and then whether table and structures are the same to the byte. The exit status is 0 where
they are.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import fcc111, graphene, mx2

from mlff2d.md.screen.journal import records_in

ELEMENTS = ("Cu", "Ag", "Au", "Al", "Pd", "Pt")
LAYERS = ("MoS2", "WS2", "MoSe2", "WSe2", "NbS2", "TaS2")
BROKEN = 25  # every so many structures one is no slab


def write_slabs(path: Path, number: int) -> None:
    """Slabs of one to four atoms, strained and rattled by chance."""
    rng = np.random.default_rng(0)
    slabs = []
    for k in range(number):
        atoms = _slab(k, rng)
        strain = np.eye(3)
        strain[:2, :2] += rng.normal(scale=0.02, size=(2, 2))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        atoms.pbc = (True, True, False) if k % BROKEN else (False, False, False)
        slabs.append(atoms)
    ase.io.write(path, slabs)


def _slab(k: int, rng: np.random.Generator) -> Atoms:
    if k % 3 == 0:
        return graphene(a=2.47, vacuum=6.0)
    if k % 3 == 1:
        return mx2(str(rng.choice(LAYERS)), vacuum=6.0)
    return fcc111(str(rng.choice(ELEMENTS)), (1, 1, int(rng.integers(1, 5))), a=4.0, vacuum=6.0)


def start(source: Path, folder: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """`mlff2d relax` in a process of its own."""
    command = [sys.executable, "-m", "mlff2d.cli", "relax", str(source), *options]
    command += ["-o", str(folder / "out.extxyz")]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def finish(source: Path, folder: Path, options: list[str]) -> float:
    """Relax to the end; wall-clock seconds. Raises RuntimeError where that fails."""
    started = time.monotonic()
    if start(source, folder, options).wait() != 0:
        raise RuntimeError(f"mlff2d relax failed:\n{(folder / 'log.txt').read_text()}")
    return time.monotonic() - started


def indices(folder: Path) -> list[int]:
    """Of the structures that the journals hold."""
    journals = sorted((folder / "out.progress").glob("block-*.jsonl"))
    return [record.index for journal in journals for record in records_in(journal)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print every kill and the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--structures", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("options", nargs="*", help="for mlff2d relax, behind --")
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        source, whole, killed = (Path(name, n) for n in ("in.extxyz", "whole", "killed"))
        write_slabs(source, args.structures)
        whole.mkdir()
        killed.mkdir()
        seconds = finish(source, whole, args.options)
        idle = finish(source, whole, args.options)  # it finds that all is done
        print(f"{args.structures} structures in one go: {seconds:.0f} s", flush=True)
        print(f"{'kill':>4} {'after':>7} {'finished':>9}", flush=True)
        n_kills = 0
        while n_kills < args.kills:
            after = rng.uniform(0.0, idle + 1.5 * (seconds - idle) / args.kills)
            process = start(source, killed, args.options)
            try:
                process.wait(after)
                print("     it had ended before", flush=True)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            n_kills += 1
            print(f"{n_kills:4} {after:5.1f} s {len(indices(killed)):9}", flush=True)
        finish(source, killed, args.options)
        done = indices(killed)
        once = sorted(done) == list(range(args.structures))
        print(f"every structure finished once: {'yes' if once else 'NO'}")
        same = True
        for suffix in (".csv", ".extxyz"):
            ours, theirs = (f.joinpath(f"out{suffix}").read_bytes() for f in (killed, whole))
            same = same and ours == theirs
            print(f"out{suffix:8} {'the same to the byte' if ours == theirs else 'DIFFERENT'}")
    return 0 if once and same and n_kills else 1


if __name__ == "__main__":
    sys.exit(main())
