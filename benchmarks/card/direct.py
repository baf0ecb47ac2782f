"""Errors against the teacher's labels, and against PBE, of structures as they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlff2d.training.data.splits import uniform_of
from mlff2d.training.evaluation.direct import COMPOSITION, Candidate, Section, judge
from mlff2d.training.evaluation.part import Judged, judged_part, leave_unknown
from mlff2d.training.evaluation.plots import parity
from mlff2d.training.lineage import trained_on

from .common import MODEL, TEACHER, Job, PartResult, ratio
from .errors import by_kind, kinds_of

_WHICH = {
    "test": "the test part of the data as the model's file says they were split: materials that it "
    "was neither trained on nor chosen by, filtered as its training data were",
    "all": "the model was not trained on these files, so that all of their frames are taken",
}


def against_teacher(job: Job) -> PartResult:
    """Errors on held-out materials of the data that the teacher labelled."""
    model, files = job.model, job.options.data
    data = job.dataset(files, model.single.cutoff)
    judged = judged_part(data, None, model.training, job.material_key)
    judged = leave_unknown(data, judged, {model.name: model.single.elements})
    names = data.material.names
    ids = judged.ids
    if judged.part == "all":  # other files may hold the same materials
        ids = ids[np.array([job.is_held_out(name) for name in names])[data.material.codes[ids]]]
        if len(ids) == 0:
            raise ValueError(f"none of the materials of {files[0]} is held out from the model")
        judged.notes.append(f"Frames {job.held_out}.")
    ids = _some(ids, data.material.codes, names, job.options.n_direct)
    judged = Judged(judged.part, ids, ids, judged.train, judged.notes)
    candidate = Candidate(MODEL, model.single, data, model.training, model.sha256)
    section = judge([candidate], judged, "given")
    kinds = kinds_of(data, section.population.ids, [*files, *job.options.source])
    tables, figures = by_kind(section, kinds)
    n, n_materials = len(section.population), len(section.population.materials.names)
    lines = [
        f"{n:,} frames of {n_materials:,} materials: {_WHICH[judged.part]}. Truth: the labels.",
        *judged.notes,
        *section.lines,
    ]
    seen = trained_on(data, ids, model.training, job.material_key)
    if seen:
        lines.append(f"{seen:,} of these frames were in the model's training part: no test.")
    energy = section.quantities[0]
    if COMPOSITION in energy.predicted:
        off = float(np.abs(energy.error(COMPOSITION)).mean())
        lines.append(f"The composition alone predicts energies to {off:.1f} meV/atom.")
        figures[f"energy {COMPOSITION}"] = off
    result = PartResult("Against the teacher, on held-out materials", lines, tables, figures)
    result.images.append(_draw(job, section, MODEL, "direct"))
    return result


def against_pbe(job: Job) -> PartResult:
    """Errors of the model and of its teacher on frames of DFT."""
    files = job.options.pbe
    candidates = [
        Candidate(name, s.single, job.dataset(files, s.single.cutoff), {}, s.sha256)
        for name, s in zip((MODEL, TEACHER), job.subjects, strict=True)
    ]
    data = candidates[0].data
    judged = judged_part(data, "all", {}, job.material_key)
    known = {s.name: s.single.elements for s in job.subjects}
    judged = leave_unknown(data, judged, known)
    section = judge(candidates, judged, "moved")
    kinds = kinds_of(data, section.population.ids, files)
    tables, figures = by_kind(section, kinds)
    for table in tables[:-1]:
        table.columns = [*table.columns, "model / teacher"]
        for row in table.rows:
            mine, other = row[2], row[3]
            assert isinstance(mine, float)
            assert isinstance(other, float)
            row.append(ratio(mine, other))
        table.digits["model / teacher"] = 2
    for quantity in section.quantities:
        row = figures[f"{quantity.key} all"]
        figures[f"{quantity.key} model / teacher"] = ratio(row[MODEL], row[TEACHER])
    lines = [
        f"{len(section.population):,} frames of {', '.join(path.name for path in files)}. Aim: no "
        "worse than the teacher by more than a fifth.",
        *judged.notes,
        *section.lines,
    ]
    seen = trained_on(data, judged.ids, job.model.training, job.material_key)
    if seen:
        lines.append(f"{seen:,} of these frames were in the model's training part: no test.")
    result = PartResult("Against PBE", lines, tables, figures)
    result.images.append(_draw(job, section, MODEL, "pbe"))
    return result


def _some(
    ids: NDArray[np.int64], codes: NDArray[np.int32], names: list[str], limit: int
) -> NDArray[np.int64]:
    """The frames of whole materials, drawn by their names, up to a number."""
    if len(ids) <= limit:
        return ids
    u = np.array([uniform_of(name, 1) for name in names])[codes[ids]]
    return np.sort(ids[np.argsort(u, kind="stable")[:limit]])


def _draw(job: Job, section: Section, method: str, name: str) -> str:
    """Write parity plots; the name of their file."""
    plot = parity(section.quantities, method, name)
    file = f"{name}-{job.model.sha256[:8]}.png"
    (job.kept.folder / file).write_bytes(plot.image)
    return file
