"""Size and speed of every architecture at its default settings: the table of docs/models.md.

    python -m benchmarks.models [--threads 2] [--repeats 15] [--compile no]

Milliseconds for energy, forces and stress of a MoS2 monolayer of 3, 12 and 75 atoms through the
calculator, float32, on the CPU: medians over runs in which the models take turns. The atoms move
before each run, as in dynamics; the neighbour list with its skin is included.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from ase.build import mx2

from mlff2d import MLFF2DCalculator
from mlff2d.compiled import CHOICES
from mlff2d.models import REGISTRY, build_model
from mlff2d.potential import Potential

SIZES = {3: (1, 1), 12: (2, 2), 75: (5, 5)}


def monolayer(n_atoms: int) -> Atoms:
    """MoS2, rattled."""
    atoms = mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=7.5)
    atoms = atoms * (*SIZES[n_atoms], 1)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.05, seed=0)
    return atoms


def calculator(name: str, compile: str = "auto") -> MLFF2DCalculator:
    """A model at its default settings, with random weights."""
    torch.manual_seed(0)
    model = build_model(name, {})
    potential = Potential(model, dict.fromkeys(model.config.elements, 0.0), zbl=True)
    return MLFF2DCalculator(potential, compile=compile)


def milliseconds(calculators: Sequence[MLFF2DCalculator], n_atoms: int, repeats: int) -> np.ndarray:
    """(calculators,) medians."""
    rng = np.random.default_rng(0)
    atoms = monolayer(n_atoms)
    start = atoms.positions.copy()
    taken = np.zeros((repeats, len(calculators)))
    for k in range(-2, repeats):  # the first two warm up
        atoms.positions = start + rng.normal(0, 0.01, start.shape)
        for c, one in enumerate(calculators):
            began = time.perf_counter()
            one.calculate(atoms)
            taken[k, c] = 1e3 * (time.perf_counter() - began)
    return np.median(taken, axis=0)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", choices=CHOICES, default="auto")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = sorted(REGISTRY)
    calculators = [calculator(name, args.compile) for name in names]
    columns = [milliseconds(calculators, n, args.repeats) for n in SIZES]
    print("| model | parameters | " + " | ".join(f"ms, {n} atoms" for n in SIZES) + " |")
    print("| --- | --- |" + " --- |" * len(SIZES))
    for k, name in enumerate(names):
        n_weights = sum(p.numel() for p in calculators[k].potential.parameters())
        times = " | ".join(f"{column[k]:.1f}" for column in columns)
        print(f"| `{name}` | {n_weights:,} | {times} |")


if __name__ == "__main__":
    main()
