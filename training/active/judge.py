"""How good the models of a round are, and whether they knew where they were wrong.

Axes: M models, S frames, N atoms of all frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlff2d.errors import StructureError
from mlff2d.potential import Potential
from mlff2d.sources import Sources

from ..data.batches import pack
from ..data.dataset import Dataset
from ..data.frames import Frames
from ..data.references import elements_of
from ..metrics import EnergyMetrics, evaluate
from ..property_metrics import spearman
from ..sections import LossConfig
from .config import Way
from .opinions import opinions
from .pick import uncertainty_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Whether frames of which models were uncertain are those that they were wrong about.

    Attributes
    ----------
    n_frames : judged
    spearman : rank correlation, over the frames, of the uncertainty with the true error of the
        forces; NaN below three frames. Among frames that were picked for their uncertainty it is
        lower than among all, as they differ less in it
    error : mean over the frames of that error, eV/Å: of the largest (or the mean) over the atoms of
        |F_model - F_label|, F_model the mean over the models
    uncertainty : mean over the frames, in its own unit
    """

    n_frames: int
    spearman: float
    error: float
    uncertainty: float

    def as_dict(self) -> dict[str, Any]:
        """Primitives; None instead of NaN, which JSON does not know."""
        return {k: None if v != v else v for k, v in asdict(self).items()}


def calibrate(
    models: Sequence[Potential], files: Sequence[Path], way: Way, over: str
) -> Calibration:
    """Compare what models are uncertain of with the labels of frames they were not trained on.

    `files` are HDF5 files of `mlff2d data build` or `mlff2d label`.
    """
    frames = Frames(files)
    structures = (found.structure for found in Sources(files).read())
    readable = [x for x in structures if isinstance(x, Atoms)]
    if len(readable) != len(frames):
        raise StructureError(f"{files[0]}: not all of its frames can be read.")
    errors, uncertain = [], []
    for s, told in enumerate(opinions(models, readable)):
        forces = frames.atoms("forces", [s])
        if isinstance(told, StructureError) or not np.isfinite(forces).all():
            continue
        wrong = np.linalg.norm(told.mean_forces - forces, axis=1)
        errors.append(wrong.max() if over == "max" else wrong.mean())
        uncertain.append(uncertainty_of(told, way, over))
    error, uncertainty = np.array(errors), np.array(uncertain)
    if not len(error):
        return Calibration(0, np.nan, np.nan, np.nan)
    ranks = spearman(uncertainty, error) if len(error) > 2 else np.nan
    return Calibration(len(error), ranks, float(error.mean()), float(uncertainty.mean()))


def errors_on(models: Sequence[Potential], files: Sequence[Path]) -> list[EnergyMetrics]:
    """Errors of each model on labelled frames in HDF5 files.

    Raises StructureError where they have an element that a model does not know.
    """
    found = []
    for model in models:
        data = Dataset(list(files), model.cutoff)
        try:
            model.check_elements(elements_of(data, np.arange(len(data))))
        except StructureError as error:
            raise StructureError(f"the test frames: {error}") from error
        batches = pack(np.arange(len(data)), data.n_edges, 256, 10_000)
        found.append(evaluate(model, data, batches, LossConfig()))
    return found
