"""Active learning against random picking on a TMD alloy, with a teacher in place of DFT.

    mlff2d import nequix-oam-1-pft.nqx -o teacher.pt
    nice python -m benchmarks.active_against_random teacher.pt -o runs/against

All cells of NbMoS2 (1H) with two to three formula units are explored by fine-tuned copies of the
shipped model: relaxations, rattled cells, dynamics at 300 and 1000 K. Both ways begin with the same
models, trained on the same few rattled frames, explore for themselves, label as many frames a
round, and differ in nothing but `pick.by`. They are judged on frames of dynamics of the teacher at
1000 K. A run that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import mx2
from rich.console import Console
from rich.table import Table

from mlff2d import checkpoint
from mlff2d.md.dynamics.collect import move_many
from mlff2d.md.relaxation.batch import relax_many
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.training.active import explore
from mlff2d.training.active.config import ActiveConfig
from mlff2d.training.active.labels import label
from mlff2d.training.active.rounds import run_rounds
from mlff2d.training.generation.alloys import Alloy, Sublattice, distinct
from mlff2d.training.generation.perturb import perturbed

WAYS = ("committee", "random")


def starts(units: int) -> list[Atoms]:
    """The mixed cells of up to so many formula units."""
    parent = mx2("MoS2", "2H", a=3.18, thickness=3.13, vacuum=7.5)
    parent.pbc = (True, True, False)
    alloy = Alloy(parent, [Sublattice("Mo", ("Mo", "Nb"))])
    return [atoms for atoms in distinct(alloy, units) if {"Mo", "Nb"} <= set(atoms.symbols)]


def make_test(teacher: str, cells: list[Atoms], folder: Path) -> Path:
    """Frames of the teacher's dynamics at 1000 K, eight of each cell, labelled."""
    output = folder / "test.h5"
    if not output.exists():
        potential = checkpoint.load(teacher)
        frames, _, signal = move_many(
            cells,
            potential,
            folder / "test-md.extxyz",
            temperature=1000.0,
            steps=160,
            write_every=20,
            seed=1,
            unguarded=("domain",),
        )
        if signal is not None:
            raise KeyboardInterrupt
        chosen = [frame for of_one in frames for frame in of_one]
        _label(chosen, output, teacher)
    return output


def make_data(teacher: str, cells: list[Atoms], n: int, seed: int, folder: Path) -> Path:
    """The first frames: cells drawn by chance and rattled by 0.05 Å, labelled."""
    output = folder / f"first-{seed}.h5"
    if not output.exists():
        chosen = np.random.default_rng(seed).integers(len(cells), size=n)
        rattle = [(0.05, 0.05)]
        draws = enumerate(chosen)
        frames = [next(perturbed(cells[k], rattle, [0.02], seed=n * seed + i)) for i, k in draws]
        _label(frames, output, teacher)
    return output


def _label(frames: list[Atoms], output: Path, teacher: str) -> None:
    source = output.with_suffix(".extxyz")
    for frame in frames:
        frame.calc = None
    explore.write_frames(frames, source)
    settings = ActiveConfig.model_validate(
        {"run_dir": ".", "structures": ["."], "label": {"calculator": teacher}}
    )
    label(source, output, settings.label, "material", Console(quiet=True))


def run(args: argparse.Namespace) -> dict[str, list[list[dict[str, object]]]]:
    """Reports of every round by way and seed."""
    args.output.mkdir(parents=True, exist_ok=True)
    cells = starts(args.units)
    test = make_test(args.teacher, cells, args.output)
    found: dict[str, list[list[dict[str, object]]]] = {way: [] for way in WAYS}
    for seed in range(args.seeds):
        folder = args.output / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        explore.write_frames(cells, folder / "starts.extxyz")
        data = make_data(args.teacher, cells, args.first, seed, args.output)
        for way in WAYS:
            run_dir = folder / way
            settings = {
                "run_dir": run_dir,
                "rounds": args.rounds,
                "seed": seed,
                "structures": [folder / "starts.extxyz"],
                "models": [args.model],
                "data": [data],
                "test": [test],
                "explore": {
                    "temperatures": [300.0, 1000.0],
                    "steps": args.md_steps,
                    "write_every": args.md_steps // 10,
                    "perturb": {"rattle": [0.05, 0.15], "n": 2},
                },
                "pick": {"by": way, "n": args.frames},
                "label": {"calculator": args.teacher},
                "committee": {"members": args.members, "steps": args.steps},
                "threads": 1,
            }
            begun = folder / WAYS[0] / "round-00"
            if way != WAYS[0] and not (run_dir / "round-00").exists():
                shutil.copytree(begun, run_dir / "round-00")  # the same models, not trained twice
            if run_rounds(ActiveConfig.model_validate(settings)) is not None:
                raise KeyboardInterrupt
            rounds = range(args.rounds + 1)
            reports = [run_dir / f"round-{k:02d}" / "report.json" for k in rounds]
            found[way].append([json.loads(path.read_text()) for path in reports])
        show(found, args)
    return found


def show(found: dict[str, list[list[dict[str, object]]]], args: argparse.Namespace) -> None:
    """The table: mean over models and seeds, ± standard deviation over seeds."""
    title = f"NbMoS2, {len(found[WAYS[1]])} seeds: errors on the teacher's dynamics at 1000 K"
    table = Table("frames", "picked by", "forces (meV/Å)", "energy (meV/atom)", "ρ", title=title)
    for k in range(args.rounds + 1):
        for way in WAYS:
            reports = [seed[k] for seed in found[way]]
            cells = [_mean(reports, "forces", 0), _mean(reports, "energy", 1)]
            ranks = [float(r["test_frames"]["spearman"]) for r in reports]  # type: ignore[index]
            table.add_row(str(reports[0]["frames"]), way, *cells, f"{np.mean(ranks):.2f}")
    Console(width=110).print(table)


def _mean(reports: list[dict[str, object]], key: str, digits: int) -> str:
    seeds = [1000 * np.mean([m[key] for m in r["test"]]) for r in reports]  # type: ignore
    spread = f" ± {np.std(seeds, ddof=1):.{digits}f}" if len(seeds) > 1 else ""
    return f"{np.mean(seeds):.{digits}f}{spread}"


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("teacher", help="model file that labels")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument("--model", default="universal", help="what is fine-tuned")
    parser.add_argument("--units", type=int, default=3, help="formula units in a cell, at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--first", type=int, default=8, help="frames to begin with")
    parser.add_argument("--frames", type=int, default=10, help="frames a round")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="of each training")
    parser.add_argument("--md-steps", type=int, default=100, help="of each dynamics")
    args = parser.parse_args()
    torch.set_num_threads(1)
    explore.relaxer = lambda structures, potential, **how: relax_many(
        structures, potential, RelaxSettings(**how)
    )
    explore.mover = move_many
    run(args)


if __name__ == "__main__":
    main()
