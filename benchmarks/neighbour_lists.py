"""Milliseconds of a neighbour list, beside the libraries that others use.

    python -m benchmarks.neighbour_lists [--cutoff 6] [--sizes 3 12 75 768 12288 49152] [-o nl.json]

Supercells of a MoS2 monolayer, rattled, periodic in the plane: ours (`mlff2d.neighbors`, vesin in
a definite order), ours with its skin, atoms moved by 0.01 Å as in dynamics, and ASE's, matscipy's
and vesin's own, as far as they are installed. All must find as many pairs. They take turns in one
process; medians, with the smallest and the largest in brackets.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import vesin
from ase import Atoms
from ase.build import mx2
from ase.neighborlist import primitive_neighbor_list

from benchmarks.programs import machine, median
from mlff2d.neighbors import SkinList, neighbor_list

Counter = Callable[[Atoms], int]


def ours(cutoff: float) -> Counter:
    """Ours, made anew."""

    def count(atoms: Atoms) -> int:
        edges, _ = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        return edges.shape[1]

    return count


def with_skin(cutoff: float) -> Counter:
    """Ours, kept while it is right."""
    kept = SkinList(cutoff)

    def count(atoms: Atoms) -> int:
        edges, _ = kept.get(atoms.positions, atoms.cell.array, atoms.pbc)
        return edges.shape[1]

    return count


def by_ase(cutoff: float) -> Counter:
    """ASE's."""

    def count(atoms: Atoms) -> int:
        found = primitive_neighbor_list(
            "ijS", atoms.pbc, atoms.cell.array, atoms.positions, cutoff, self_interaction=False
        )
        return len(found[0])

    return count


def by_matscipy(cutoff: float) -> Counter:
    """matscipy's, which mace-torch, schnetpack and nequix use."""
    from matscipy.neighbours import neighbour_list

    return lambda atoms: len(neighbour_list("ijS", atoms, cutoff)[0])


def by_vesin(cutoff: float) -> Counter:
    """vesin's, in no order."""

    def count(atoms: Atoms) -> int:
        found = vesin.NeighborList(cutoff=cutoff, full_list=True).compute(
            points=atoms.positions, box=atoms.cell.array, periodic=atoms.pbc, quantities="ijS"
        )
        return len(found[0])

    return count


def programs(cutoff: float) -> dict[str, Counter]:
    """What there is."""
    known = {"ours": ours, "ours, skin": with_skin, "ase": by_ase, "vesin": by_vesin}
    if find_spec("matscipy"):
        known["matscipy"] = by_matscipy
    return {name: make(cutoff) for name, make in known.items()}


def measure(n_atoms: int, cutoff: float, rounds: int, slowest: float) -> dict[str, Any]:
    """Times of all at one size; those slower than `slowest` seconds have a single call."""
    n = round((n_atoms / 3) ** 0.5)
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, size=(n, n, 1), vacuum=10.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.05, seed=0)
    start, rng = atoms.positions.copy(), np.random.default_rng(0)
    counters = programs(cutoff)
    times: dict[str, list[float]] = {}
    calls: dict[str, int] = {}
    pairs: dict[str, int] = {}
    for name, count in counters.items():  # they warm up, all on the same positions
        began = time.perf_counter()
        pairs[name] = count(atoms)
        calls[name] = 1 if time.perf_counter() - began > slowest else rounds
        times[name] = []
    if len(set(pairs.values())) > 1:
        raise SystemExit(f"{len(atoms)} atoms: different numbers of pairs, {pairs}")
    for k in range(rounds):
        atoms.positions = start + rng.normal(0.0, 0.01, start.shape)
        for name, count in counters.items():
            if k < calls[name]:
                began = time.perf_counter()
                count(atoms)
                times[name].append(1e3 * (time.perf_counter() - began))
    return {"atoms": len(atoms), "pairs": pairs["ours"], "milliseconds": times}


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cutoff", type=float, default=6.0, help="Å")
    parser.add_argument("--sizes", type=int, nargs="+", default=[3, 12, 75, 768, 12288, 49152])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slowest", type=float, default=5.0, help="s, above which one call is all")
    parser.add_argument("-o", "--output", type=Path, help="JSON")
    args = parser.parse_args()
    report = {
        "machine": machine(),
        "cutoff": args.cutoff,
        "sizes": [measure(n, args.cutoff, args.rounds, args.slowest) for n in args.sizes],
    }
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")
    names = list(programs(args.cutoff))
    print("| atoms | pairs | " + " | ".join(names) + " |")
    print("| --- " * (len(names) + 2) + "|")
    for one in report["sizes"]:
        cells = " | ".join(median(one["milliseconds"][name]) for name in names)
        print(f"| {one['atoms']:,} | {one['pairs']:,} | {cells} |")
    print(f"\nMilliseconds, {report['machine']['cpu']}, cutoff {args.cutoff:g} Å.")


if __name__ == "__main__":
    main()
