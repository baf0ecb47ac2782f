"""Memory and time of large cells, which should be in proportion to the atoms.

    python -m benchmarks.big_cells [--model NAME] [--sizes 1000 5000 20000 50000] [--parts EDGES]

Supercells of a MoS2 monolayer, rattled: energy, forces and in-plane virial by the evaluator that
relaxation and dynamics use, then a second time with all atoms moved by 0.01 Å, as in a step of
dynamics. Each size in a process of its own, so that the peak of its memory is known. The seconds of
the processor are given too: they say more where others work on the same machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from ase.build import mx2

from mlff2d.checkpoint import load
from mlff2d.md.evaluator import Evaluator
from mlff2d.md.memory import edge_budget
from mlff2d.md.slabs import one_slab


def one_size(model: str | None, n_atoms: int, part_edges: int | None, dtype: str) -> None:
    """Measure one size and print it as JSON."""
    n = round((n_atoms / 3) ** 0.5)
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, size=(n, n, 1), vacuum=10.0)
    atoms.rattle(0.05, seed=0)
    atoms.pbc = (True, True, False)
    potential = load(model, torch.device("cpu"), getattr(torch, dtype))
    evaluator = Evaluator(potential, edge_budget(potential))
    evaluator.part_edges = part_edges
    slabs = one_slab(atoms, 0)
    start = time.perf_counter()
    found = evaluator(slabs)
    first = time.perf_counter() - start
    if found.troubles:
        raise SystemExit(found.troubles[0])
    start, start_cpu = time.perf_counter(), time.process_time()
    evaluator(slabs.moved(slabs.pos + 0.01))
    step, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    figures = {
        "atoms": len(atoms),
        "edges": int(found.n_edges),
        "first": first,
        "step": step,
        "cpu": cpu,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "energy": float(found.energy) / len(atoms),
    }
    print(json.dumps(figures))


def main() -> None:
    """Measure all sizes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name or file of a model; else the universal one")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 20000, 50000])
    parser.add_argument("--parts", type=int, help="edges at a time; else what should fit")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one_size(args.model, args.one, args.parts, args.dtype)
        return
    print(f"{torch.get_num_threads()} threads, {args.dtype}")
    print(" atoms     edges  first s  step s   cpu s  ms/atom  peak GB  kB/atom  eV/atom")
    for size in args.sizes:
        command = [sys.executable, "-m", "benchmarks.big_cells", "--one", str(size)]
        command += ["--dtype", args.dtype]
        for name in ("model", "parts"):
            if (value := getattr(args, name)) is not None:
                command += [f"--{name}", str(value)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{size:6d}  {done.stderr.strip().splitlines()[-1]}")
            continue
        x = json.loads(done.stdout)
        n = x["atoms"]
        print(
            f"{n:6d}  {x['edges']:8d}  {x['first']:7.1f}  {x['step']:6.1f}  {x['cpu']:6.1f}  "
            f"{1e3 * x['cpu'] / n:7.2f}  {x['peak'] / 1e9:7.2f}  {x['peak'] / 1e3 / n:7.0f}  "
            f"{x['energy']:8.5f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
