"""Monolayers at 1000 K: do they stay monolayers, is the temperature right, is energy conserved?"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
from ase import Atoms

from mlff2d.errors import StructureError
from mlff2d.md.dynamics.result import FINISHED
from mlff2d.md.dynamics.run import run_md
from mlff2d.md.dynamics.settings import MDSettings
from mlff2d.potential import Potential
from mlff2d.training.evaluation.starts import structure
from mlff2d.training.evaluation.tables import Cell, Table

from .common import Job, PartResult, number, relaxed

KELVIN, TIMESTEP = 1000.0, 1.0
LARGEST, LEAST = 6, 12
"""Atoms of the primitive cells, and the least of the cells that move."""


def at_1000_k(job: Job) -> PartResult:
    """Half the steps with a thermostat, half without, by both."""
    options = job.options
    data = job.dataset(options.structures, job.model.single.cutoff, labels=False)
    starts = job.starts(data, options.n_md, LARGEST)
    names = [data.material[int(s)] for s in starts]
    structures = [structure(data, int(s)) for s in starts]
    geometry = [[a.numbers.tolist(), a.positions.tolist(), a.cell.tolist()] for a in structures]
    found = {
        s.name: job.kept.get(
            "md-runs",
            [s.sha256, options.md_steps, KELVIN, TIMESTEP, LEAST, geometry],
            partial(_measure, names, structures, s.single, options.md_steps),
        )
        for s in (job.subjects[:1] if options.skip_teacher_md else job.subjects)
    }
    columns = ["potential", "monolayers", "survived", "share (%)", "mean T (K)"]
    columns += ["median drift (meV/atom/ps)", "largest"]
    rows: list[list[Cell]] = []
    lines = [
        f"{len(names)} held-out monolayers of up to {LARGEST} atoms, each relaxed by the potential "
        f"itself, in cells of at least {LEAST} atoms: {options.md_steps} steps of {TIMESTEP:g} fs "
        f"with a Langevin thermostat at {KELVIN:.0f} K, then as many at constant energy (float32). "
        "A guard stops what is hotter than it can be, has atoms on top of each other, breaks or "
        "loses a fragment. A real layer may melt at this temperature.",
    ]
    figures: dict[str, Any] = {"monolayers": names}
    for name, runs in found.items():
        survived = [run for run in runs if run["status"] == FINISHED]
        drifts = [abs(run["drift"]) for run in survived if run["drift"] is not None]
        heat = [run["kelvin"] for run in survived if run["kelvin"] is not None]
        row: list[Cell] = [name, len(runs), len(survived), 100 * len(survived) / max(len(runs), 1)]
        spread = np.std(heat, ddof=1) / math.sqrt(len(heat)) if len(heat) > 1 else math.nan
        row.append(f"{np.mean(heat):.0f} ± {spread:.0f}" if heat else None)
        row += [float(np.median(drifts)), max(drifts)] if drifts else [None, None]
        rows.append(row)
        figures[name] = dict(zip(columns[1:], row[1:], strict=True))
        figures[name]["mean T (K)"] = float(np.mean(heat)) if heat else None
        figures[f"{name}, ends"] = dict(Counter(run["status"] for run in runs))
        for run in runs:
            if run["status"] != FINISHED:
                lines.append(f"The {name}'s {run['name']}: {run['status']} {run['reason']}".strip())
    digits = {"share (%)": 0, columns[5]: 3, columns[6]: 3}
    note = (
        "Mean temperature of the second half of the steps with the thermostat, with the standard "
        "error over the layers. Drift: slope of the total energy at constant energy."
    )
    return PartResult(
        "Molecular dynamics at 1000 K",
        lines,
        [Table("md", "", columns, rows, digits, note, right=columns[4:5])],
        figures,
    )


def _measure(
    names: list[str], structures: list[Atoms], potential: Potential, steps: int
) -> list[dict[str, Any]]:
    """What became of each structure."""
    found: list[dict[str, Any]] = []
    moving: list[Atoms] = []
    for name, result in zip(names, relaxed(structures, potential, 0.05, 0.1), strict=True):
        run: dict[str, Any] = {"name": name, "kelvin": None, "drift": None, "steps": 0}
        if isinstance(result, StructureError) or not result.met:
            reason = str(result) if isinstance(result, StructureError) else result.reason
            found.append(run | {"status": "not relaxed", "reason": reason})
            continue
        found.append(run | {"status": "", "reason": ""})
        moving.append(_repeated(result.atoms))
    settings = MDSettings(
        ensemble="nve",
        steps=steps,
        equilibrate=steps,
        timestep=TIMESTEP,
        temperature=KELVIN,
        thermostat_time=50.0,
        unguarded=("domain",),  # the teacher knows none, and the two are to be compared
    )
    if not moving:
        return found
    result_of_all = run_md(moving, potential, settings, tell=lambda text: None)
    if result_of_all.signal is not None:
        raise KeyboardInterrupt
    log = result_of_all.log
    runs = [run for run in found if not run["status"]]
    for run, replica in zip(runs, result_of_all.replicas, strict=True):
        run |= {"status": replica.status, "reason": replica.reason, "steps": replica.steps}
        mine = log["replica"] == replica.replica
        step, heat = log["step"][mine], log["temperature"][mine]
        warm = (step < 0) & (step >= -steps // 2)
        run["kelvin"] = number(heat[warm].mean()) if warm.any() else None
        free = step >= 0
        if replica.status == FINISHED and free.sum() > 2:
            time = log["time_fs"][mine][free] / 1000
            total = 1000 * log["conserved_per_atom"][mine][free]
            run["drift"] = number(np.polyfit(time, total, 1)[0])
    return found


def _repeated(atoms: Atoms) -> Atoms:
    """A cell of at least `LEAST` atoms, the shorter lattice vector repeated first."""
    n = [1, 1, 1]
    lengths = atoms.cell.lengths()
    while math.prod(n) * len(atoms) < LEAST:
        n[int(n[0] * lengths[0] > n[1] * lengths[1])] += 1
    return atoms * n
