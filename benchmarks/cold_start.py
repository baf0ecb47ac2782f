"""Seconds until the first numbers: starting the program, and a first call in Python.

    python -m benchmarks.cold_start [--rounds 5] [-o cold.json]

Each in a fresh process, in turns: `mlff2d-relax --help`; `import torch`, which nothing with a model
can undercut; the first energy, forces and stress of `MLFF2DCalculator()`, and the same without
compiled code; `mlff2d-relax examples/monolayers.extxyz`; and these two with an empty folder of
compiled code, as right after the installation. Medians, with the smallest and the largest.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.programs import machine, median

EXAMPLE = Path(__file__).parent.parent / "examples" / "monolayers.extxyz"
FIRST_CALL = """
from ase.build import mx2
from mlff2d import MLFF2DCalculator
atoms = mx2("MoS2", vacuum=8)
atoms.calc = MLFF2DCalculator(compile={compile!r})
atoms.get_forces()
"""
RELAX = ["-m", "mlff2d.cli", "relax", "monolayers.extxyz"]
PROGRAMS = {
    "mlff2d-relax --help": ["-m", "mlff2d.cli", "relax", "--help"],
    "import torch": ["-c", "import torch"],
    "first call": ["-c", FIRST_CALL.format(compile="auto")],
    "first call, compile='no'": ["-c", FIRST_CALL.format(compile="no")],
    "mlff2d-relax, 8 monolayers": RELAX,
    "first call, nothing compiled yet": ["-c", FIRST_CALL.format(compile="auto")],
    "mlff2d-relax, nothing compiled yet": RELAX,
}


def seconds(name: str, cache: Path, threads: int) -> float:
    """How long a program takes, in a folder of its own."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(EXAMPLE.parent.parent),
        "MLFF2D_CACHE": str(cache),
    }
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(EXAMPLE, folder)
        if "nothing compiled" in name:
            environment["MLFF2D_CACHE"] = folder
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *PROGRAMS[name]],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        taken = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip()}")
    return taken


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="JSON")
    args = parser.parse_args()
    report = {"machine": machine(), "threads": args.threads}
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as cache:
        for k in range(args.rounds + 1):
            for name in PROGRAMS:
                taken[name].append(seconds(name, Path(cache), args.threads))
            if k == 0:  # files are read from the disk, and code is compiled
                taken = {name: [] for name in PROGRAMS}
    if args.output:
        args.output.write_text(json.dumps(report | {"seconds": taken}, indent=1) + "\n")
    print("| | s |\n| --- | --- |")
    for name, times in taken.items():
        print(f"| {name} | {median(times)} |")
    print(f"\n{report['machine']['cpu']}, {args.threads} threads.")


if __name__ == "__main__":
    main()
