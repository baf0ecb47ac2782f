"""Energies and areas after relaxation of held-out materials, beside the teacher's minima."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlff2d.training.evaluation.direct import Candidate
from mlff2d.training.evaluation.journal import Journal
from mlff2d.training.evaluation.part import judged_part
from mlff2d.training.evaluation.plots import parity
from mlff2d.training.evaluation.population import Population
from mlff2d.training.evaluation.quantities import scores
from mlff2d.training.evaluation.relaxed import Reference, Settings, judge_relaxed
from mlff2d.training.evaluation.tables import Cell, Table

from .common import MODEL, TEACHER, Job, PartResult, relaxer

FMAX, SMAX, STEPS = 0.02, 0.05, 1000

THESIS = {"energy": (76.8, 33.9), "area": (0.790, None)}
"""Mean and median absolute errors of the universal M3GNet against DFT after relaxation of the test
set: F. Jaeger, *Two-Dimensional Machine Learning Force Fields* (ETH Zurich, 2023)."""


def after_relaxation(job: Job) -> PartResult:
    """Both relax the same structures near equilibrium, of materials that the model never saw."""
    options, model, teacher = job.options, job.model, job.teacher
    data = job.dataset(options.structures, model.single.cutoff, labels=False)
    starts = job.starts(data, options.n_relax, options.max_atoms)
    settings = Settings(relaxer, FMAX, SMAX, STEPS, None, FMAX, "float32")
    journal = Journal(job.kept.folder / "relaxations.jsonl")
    candidate = Candidate(MODEL, model.single, data, model.training, model.sha256)
    reference = Reference(TEACHER, teacher.single, teacher.sha256)
    section = judge_relaxed([candidate], reference, starts, settings, journal, "given")
    columns = ["quantity", "mean", "median", "thesis, mean", "thesis, median", "baseline", "of"]
    rows: list[list[Cell]] = []
    figures: dict[str, Any] = {"structures": len(starts), "compared": len(section.population)}
    for quantity in section.quantities:
        found = scores(quantity.true, quantity.predicted[MODEL])
        baseline = quantity.baselines[-1]
        other = scores(quantity.true, quantity.predicted[baseline]).mae
        thesis = THESIS.get(quantity.key, (None, None))
        text = [None if value is None else float(value) for value in thesis]
        rows.append([quantity.label, found.mae, found.median, *text, other, baseline])
        figures[quantity.key] = {"mae": found.mae, "median": found.median, "bias": found.bias}
    new = _of_new_composition(job, section.population)
    figures["of a new composition"] = int(new.sum())
    status = section.tables[0]
    for row in status.rows:
        figures[f"converged {row[0]}"] = row[3]
    errors = Table("relaxed", "Mean and median absolute errors", columns, rows)
    lines = [
        f"{len(starts):,} structures of {options.structures[0].name} of up to {options.max_atoms} "
        f"atoms, {job.held_out}; drawn by name. Relaxed to {FMAX} eV/Å and {SMAX} N/m with "
        f"at most {STEPS} steps (atoms and in-plane cell, FIRE, float32). The thesis's figures are "
        "errors against DFT, of a model trained on it.",
        *section.lines,
    ]
    if new.any():
        found_new = {
            q.key: float(np.abs(q.error(MODEL)[new[q.owner]]).mean()) for q in section.quantities
        }
        figures["MAE of a new composition"] = found_new
        lines.append(
            f"Of {int(new.sum())} of them no frame of the training part has the composition: MAE "
            + ", ".join(
                f"{found_new[q.key]:.{q.digits}f} {q.unit} ({q.name.lower()})"
                for q in section.quantities
            )
            + "."
        )
    result = PartResult("After relaxation", lines, [errors, status], figures)
    plot = parity(section.quantities, MODEL, "relaxed")
    result.images.append(f"relaxed-{model.sha256[:8]}.png")
    (job.kept.folder / result.images[0]).write_bytes(plot.image)
    return result


def _of_new_composition(job: Job, population: Population) -> NDArray[np.bool_]:
    """(S,) whether no frame that the model was trained on has the reduced formula.

    A compound may be in the data under another name.
    """
    none = np.zeros(len(population), dtype=bool)
    if not job.options.data:
        return none
    data = job.dataset(job.options.data, job.model.single.cutoff)
    train = judged_part(data, None, job.model.training, job.material_key).train
    if len(train) == 0:
        return none
    known = set(Population(data, train).compositions.formulas)
    found = population.compositions
    return np.array([found.formulas[k] not in known for k in found.of])
