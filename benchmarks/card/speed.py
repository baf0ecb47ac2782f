"""Milliseconds for energy, forces and stress, of one structure and of many at once."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from ase import Atoms

from benchmarks.lattice_constants import monolayer
from mlff2d import MLFF2DCalculator
from mlff2d.md.evaluator import Evaluator
from mlff2d.md.memory import edge_budget
from mlff2d.md.slabs import join, one_slab
from mlff2d.training.evaluation.tables import Cell, Table

from .common import Job, PartResult

SIZES = {3: 1, 12: 2, 75: 5, 192: 8, 768: 16}
"""Atoms of MoS2, and the repetitions along each lattice vector."""

MANY, OF_EACH = 32, 2
"""Structures evaluated at once, and the repetitions of their cells."""


def speed(job: Job) -> PartResult:
    """Both take turns, on one machine, with as many threads."""
    key = [[s.sha256 for s in job.subjects], list(SIZES), job.options.threads, job.options.device]
    found = job.kept.get("speed", key, lambda: _measure(job))
    columns = ["atoms", "model (ms)", "teacher (ms)", "model (ms/atom)", "teacher / model"]
    rows: list[list[Cell]] = []
    figures: dict[str, Any] = {}
    for label, (mine, other) in found["ms"].items():
        n = int(label.split(" x ")[-1]) * (MANY if " x " in label else 1)
        rows.append([label, mine, other, mine / n, other / mine])
        figures[label] = {"model, ms/atom": mine / n, "teacher / model": other / mine}
    digits = {"model (ms)": 1, "teacher (ms)": 1, "model (ms/atom)": 3, "teacher / model": 1}
    lines = [
        f"MoS2, atoms moved before each run; float32, {job.options.threads} threads, "
        f"{found['device']}; medians, the two taking turns. On a CPU the time is that of all cores "
        f"together. The last row: {MANY} structures evaluated at once."
    ]
    return PartResult("Speed", lines, [Table("speed", "", columns, rows, digits)], figures)


def _measure(job: Job) -> dict[str, Any]:
    """Medians in ms of model and teacher by what was evaluated."""
    device = next(job.model.single.parameters()).device
    calculators = [MLFF2DCalculator(s.single, device=str(device)) for s in job.subjects]
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {}
    for n_atoms, n in SIZES.items():
        atoms = _cell(n)
        repeats = 7 if n_atoms < 100 else 3
        start = atoms.positions.copy()
        taken = np.zeros((repeats, 2))
        for k in range(-1, repeats):  # the first warms up
            atoms.positions = start + rng.normal(0, 0.01, start.shape)
            for c, one in enumerate(calculators):
                began = _clock(device)
                one.calculate(atoms)
                taken[k, c] = 1e3 * (_clock(device) - began)
        times[str(n_atoms)] = np.median(taken, axis=0).tolist()
    times[f"{MANY} x {3 * OF_EACH**2}"] = [_batched(s.single) for s in job.subjects]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return {"ms": times, "device": name}


def _clock(device: torch.device) -> float:
    """Seconds: of a GPU those of the clock; of a CPU those of all its cores that this process had,
    which other processes disturb less.
    """
    return time.perf_counter() if device.type == "cuda" else time.process_time()


def _cell(n: int) -> Atoms:
    atoms = monolayer("MoS2") * (n, n, 1)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.05, seed=0)
    return atoms


def _batched(potential: Any, repeats: int = 3) -> float:
    """ms of an evaluation of many structures, their neighbour lists found before."""
    evaluator = Evaluator(potential, edge_budget(potential))
    slabs = join([one_slab(_cell(OF_EACH), k) for k in range(MANY)])
    device = next(potential.parameters()).device
    slabs = slabs.to(device)
    taken = []
    for _ in range(repeats + 1):
        began = _clock(device)
        evaluator(slabs).energy.cpu()
        taken.append(1e3 * (_clock(device) - began))
    return float(np.median(taken[1:]))
