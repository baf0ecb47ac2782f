"""Lattice constants of well-known monolayers, of the model and of its teacher, beside PBE."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.lattice_constants import PBE, monolayer
from mlff2d.errors import StructureError
from mlff2d.training.evaluation.tables import Cell, Table

from .common import Job, PartResult, Subject, relaxed

FMAX, SMAX = 0.005, 0.01


def lattice_constants(job: Job) -> PartResult:
    """Relax every monolayer of `benchmarks.lattice_constants` with both."""
    found = {s.name: _measured(job, s) for s in job.subjects}
    columns = ["monolayer", "PBE (Å)", "model (Å)", "deviation (%)", "teacher (Å)", "its (%)"]
    rows: list[list[Cell]] = []
    off: dict[str, list[float]] = {name: [] for name in found}
    for name, reference in PBE.items():
        row: list[Cell] = [name, _text(reference)]
        for subject, constants in found.items():
            status, values = constants[name]
            if values is None:
                row += [status, None]
                continue
            values = values[: len(reference)]
            deviations = [100 * (a / b - 1) for a, b in zip(values, reference, strict=True)]
            off[subject] += deviations
            ended = "" if status == "converged" else f" ({status})"
            row += [_text(values) + ended, ", ".join(f"{d:+.1f}" for d in deviations)]
        rows.append(row)
    figures: dict[str, Any] = {
        name: {"mean |%|": float(np.abs(v).mean()), "largest |%|": float(np.abs(v).max())}
        for name, v in off.items()
        if v
    }
    lines = [
        f"Relaxed in float64 to {FMAX} eV/Å and {SMAX} N/m, from two per cent above. Mean absolute "
        + ", ".join(
            f"deviation of the {name} {f['mean |%|']:.2f} % (largest {f['largest |%|']:.1f} %)"
            for name, f in figures.items()
        )
        + ". PBE values are rounded from the literature."
    ]
    table = Table("lattice", "", columns, rows, right=columns[1:])
    return PartResult("Lattice constants", lines, [table], figures)


def _measured(job: Job, subject: Subject) -> dict[str, Any]:
    """By monolayer how its relaxation ended and the lengths of its lattice vectors."""

    def measure() -> dict[str, Any]:
        results = relaxed([monolayer(name) for name in PBE], subject.double, FMAX, SMAX)
        found: dict[str, Any] = {}
        for name, result in zip(PBE, results, strict=True):
            if isinstance(result, StructureError):
                found[name] = ["refused", None]
            else:
                found[name] = [result.status, result.atoms.cell.lengths()[:2].tolist()]
        return found

    key = [subject.sha256, FMAX, SMAX, {name: list(values) for name, values in PBE.items()}]
    answer: dict[str, Any] = job.kept.get("lattice-vectors", key, measure)
    return answer


def _text(values: Any) -> str:
    return " x ".join(f"{value:.3f}".removesuffix("0") for value in values)
