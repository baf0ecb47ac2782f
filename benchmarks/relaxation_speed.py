"""Structures relaxed per minute: in batches, and by ASE one after another.

    python -m benchmarks.relaxation_speed monolayers.extxyz.gz [-o speed.json]

Every k-th structure of at most 30 atoms, with the same model, settings and thresholds: by ASE's
FIRE on the in-plane cell filter (`ase`), the same in batches (`fire`), L-BFGS in batches (`lbfgs`),
and torch-sim's FIRE with its Frechet cell filter (`torch-sim`, where it is installed; of its
convergence the function given here decides, by the same thresholds). What each of them does to a
structure besides is timed too: ours find layer groups, lattice and what broke, torch-sim does not.
The columns take turns, and the table has medians, with the smallest and the largest in brackets.
Energies are compared with those of `ase`, of the structures that converged in both.

What is done is kept in the file of `-o`: what was cut short goes on when called again, and a
column of another environment joins the others. `--profile` says where the time of `fire` goes.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlff2d.checkpoint import load
from mlff2d.errors import StructureError
from mlff2d.md.relaxation import batch, flight
from mlff2d.md.relaxation.batch import BatchRelaxer
from mlff2d.md.relaxation.one_by_one import AseRelaxer
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.md.skin import SkinLists
from mlff2d.potential import Potential
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

COLUMNS = ("ase", "fire", "lbfgs", "torch-sim")
MAX_ATOMS = 30
ATOMS_AT_ONCE = 150
"""Of torch-sim, which cannot tell on a CPU how many fit; about what our batches hold."""

Run = dict[str, Any]
"""Seconds, steps of all structures together, and of each that converged its energy per atom."""


def sample(source: Path, number: int) -> list[Atoms]:
    """Every k-th structure of an extxyz file that is not too large, without parsing the others."""
    opener = gzip.open if source.suffix == ".gz" else open
    with opener(source, "rt") as file:
        lines = file.read().split("\n")
    frames, at = [], 0
    while at < len(lines) and lines[at].strip():
        end = at + int(lines[at]) + 2
        if end - at - 2 <= MAX_ATOMS:
            frames.append("\n".join(lines[at:end]))
        at = end
    if len(frames) < number:
        raise SystemExit(f"{source} has {len(frames)} such structures; give a smaller --structures")
    chosen = frames[:: len(frames) // number][:number]
    found = [ase.io.read(io.StringIO(text), format="extxyz") for text in chosen]
    return [atoms for atoms in found if isinstance(atoms, Atoms)]


def ours(relaxer: BatchRelaxer | AseRelaxer, frames: list[Atoms]) -> Run:
    """Relax with one of our relaxers."""
    energies: dict[str, float] = {}
    statuses: Counter[str] = Counter()
    steps = []
    start = time.perf_counter()
    for finished in relaxer.run(list(enumerate(frames))):
        for key, result in finished:
            statuses["refused" if isinstance(result, StructureError) else result.status] += 1
            if not isinstance(result, StructureError):
                steps.append(result.steps)
                if result.met:
                    energies[str(key)] = result.energy / len(frames[key])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "steps": steps, "energies": energies, "statuses": statuses}


def met(state: Any, settings: RelaxSettings) -> Tensor:
    """(S,) whether forces and in-plane stress of a state of torch-sim are below the thresholds.

    The normal of all slabs is along z.
    """
    norms = state.forces.norm(dim=1)
    fmax = norms.new_zeros(state.n_systems).scatter_reduce(0, state.system_idx, norms, "amax")
    cell = state.row_vector_cell
    area = torch.linalg.cross(cell[:, 0], cell[:, 1]).norm(dim=1)
    height = torch.linalg.det(cell).abs() / area * EV_PER_ANGSTROM2_IN_N_PER_M
    principal = torch.linalg.eigvalsh(state.stress[:, :2, :2] * height[:, None, None])
    return (fmax <= settings.fmax) & (principal.abs().amax(1) <= settings.smax)


def theirs(potential: Potential, frames: list[Atoms], settings: RelaxSettings) -> Run:
    """Relax with torch-sim."""
    import torch_sim
    from torch_sim.autobatching import InFlightAutoBatcher

    from mlff2d.torchsim import MLFF2DModel

    periodic = [atoms.copy() for atoms in frames]
    for atoms in periodic:
        atoms.pbc = True  # torch-sim knows no periodicity by axis; our model finds the vacuum
    model = MLFF2DModel(potential)
    start = time.perf_counter()
    batcher = InFlightAutoBatcher(
        model,
        memory_scales_with="n_atoms",
        max_memory_scaler=ATOMS_AT_ONCE,
        max_iterations=settings.steps,
    )
    final = torch_sim.optimize(
        periodic,
        model,
        optimizer=torch_sim.frechet_cell_fire,
        convergence_fn=lambda state, last_energy: met(state, settings),
        autobatcher=batcher,
        max_steps=10**9,  # of all structures together; the batcher counts those of each
        steps_between_swaps=1,
    )
    seconds = time.perf_counter() - start
    reached = met(final, settings).tolist()
    energies = {
        str(k): float(final.energy[k]) / len(atoms) for k, atoms in enumerate(frames) if reached[k]
    }
    statuses = Counter("converged" if yes else "not converged" for yes in reached)
    return {"seconds": seconds, "steps": [], "energies": energies, "statuses": statuses}


def run(column: str, potential: Potential, frames: list[Atoms], args: argparse.Namespace) -> Run:
    """One column, once."""
    optimizer = "lbfgs" if column == "lbfgs" else "fire"
    settings = RelaxSettings(fmax=args.fmax, smax=args.smax, optimizer=optimizer)
    if column == "ase":
        return ours(AseRelaxer(potential, settings), frames)
    if column == "torch-sim":
        return theirs(potential, frames, settings)
    return ours(BatchRelaxer(potential, settings, args.max_edges), frames)


def median(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{np.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def table(runs: dict[str, list[Run]], n_structures: int) -> str:
    """What is to be shown."""
    per_minute = {
        name: [60 * n_structures / r["seconds"] for r in found] for name, found in runs.items()
    }
    lines = [
        "| | structures per minute | times ase | median steps | forces and stress below | "
        "statuses | mean and largest energy difference (meV/atom) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in runs.items():
        last = found[-1]
        ratio, apart = "", ""
        if "ase" in runs:
            ratio = f"{np.median(per_minute[name]) / np.median(per_minute['ase']):.1f}"
            expected = runs["ase"][-1]["energies"]
            both = last["energies"].keys() & expected.keys()
            apart_each = 1000 * np.abs([last["energies"][k] - expected[k] for k in both])
            apart = f"{apart_each.mean():.3f}, {apart_each.max():.1f}" if both else ""
        steps = f"{np.median(last['steps']):.0f}" if last["steps"] else ""
        statuses = ", ".join(f"{n} {status}" for status, n in last["statuses"].items())
        lines.append(
            f"| {name} | {median(per_minute[name])} | {ratio} | {steps} | "
            f"{len(last['energies'])} | {statuses} | {apart} |"
        )
    return "\n".join(lines)


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Seconds spent in the parts of a batched relaxation, by their names."""
    parts: list[tuple[str, Any, str]] = [
        ("model", Potential, "forward"),
        ("neighbour lists", SkinLists, "get"),
        ("step", flight.Flight, "moved"),
        ("forces and thresholds", flight.Flight, "evaluated"),
        ("runaways", batch, "runaways"),
        ("judgement", batch, "judge"),
    ]

    def measured(name: str, function: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        return wrapper

    whole = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in parts]
    for (name, owner, attribute), (_, _, function) in zip(parts, whole, strict=True):
        setattr(owner, attribute, measured(name, function))
    try:
        yield
    finally:
        for owner, attribute, function in whole:
            setattr(owner, attribute, function)


def main() -> None:
    """Measure what is not in the file yet, and show it all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="extxyz file with monolayers")
    parser.add_argument("--model", help="model file; without it the shipped universal model")
    parser.add_argument("--structures", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fmax", type=float, default=0.02, help="eV/Å")
    parser.add_argument("--smax", type=float, default=0.05, help="N/m")
    parser.add_argument("--max-edges", type=int, help="of a batch; measured where it is not given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS)
    parser.add_argument("--profile", action="store_true", help="where the time of `fire` goes")
    parser.add_argument("-o", "--output", type=Path, help="JSON file that keeps what is done")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    frames = sample(args.source, args.structures)
    potential = load(args.model, torch.device(args.device), torch.float32).eval()
    potential.requires_grad_(False)
    if args.profile:
        return profile(potential, frames, args)
    columns = args.columns or [
        c for c in COLUMNS if c != "torch-sim" or importlib.util.find_spec("torch_sim")
    ]
    names = ("structures", "threads", "fmax", "smax", "max_edges", "device", "model")
    kept: dict[str, Any] = {"settings": {name: getattr(args, name) for name in names}, "runs": {}}
    if args.output and args.output.exists():
        found = json.loads(args.output.read_text())
        if found["settings"] != kept["settings"]:
            raise SystemExit(f"{args.output} has other settings; give another file")
        kept = found
    kept["machine"] = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_before": os.getloadavg()[0],
    }
    runs: dict[str, list[Run]] = kept["runs"]
    run(columns[-1], potential, frames[:4], args)  # what is done once is not timed
    for repeat in range(args.repeats):
        for column in columns:
            if len(runs.setdefault(column, [])) > repeat:
                continue
            runs[column].append(run(column, potential, frames, args))
            print(f"{column}: {runs[column][-1]['seconds']:.0f} s", flush=True)
            if args.output:
                args.output.write_text(json.dumps(kept, indent=1))
    print(table({name: found for name, found in runs.items() if found}, len(frames)))


def profile(potential: Potential, frames: list[Atoms], args: argparse.Namespace) -> None:
    """Print the shares of the parts of one batched relaxation."""
    spent: dict[str, float] = {}
    run("fire", potential, frames[:4], args)
    with timed(spent):
        total = run("fire", potential, frames, args)["seconds"]
    spent["all else"] = total - sum(spent.values())
    for name, seconds in spent.items():
        print(f"{name:24}{seconds:8.1f} s{100 * seconds / total:6.1f} %")


if __name__ == "__main__":
    main()
