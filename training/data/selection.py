"""Which steps of a trajectory are trained on, as in section 4.1 of the thesis.

F. Jaeger, *Two-Dimensional Machine Learning Force Fields* (ETH Zurich, 2023). Selection comes after
the filters and sees the steps that they left: the step after an outlier is then the next good one,
and a trajectory cannot lose every frame to a filter behind it.

Axes: S structures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..sections import SelectionConfig
from .dataset import Dataset
from .filters import Removed


def select(
    data: Dataset, ids: NDArray[np.int64], config: SelectionConfig
) -> tuple[NDArray[np.int64], Removed | None]:
    """Ascending indices of the frames to take of `ids` (ascending), and what is left out.

    Steps with the same code in `data.trajectory` belong together, also where those of several runs
    are mixed; their order is that of the data. With `e_cut` step i is taken where the energy per
    atom of the next step differs by more. A step without energy is neither taken nor compared: the
    next is the next that has one. The last step has none behind it. A trajectory that gives no step
    so, and each one without `e_cut`, gives those nearest to the places in `steps`, of two the
    later. None in place of `Removed` where nothing is selected.
    """
    if config.steps is None:
        return ids, None
    codes = data.trajectory.codes[ids]
    order = np.argsort(codes, kind="stable")
    chosen = np.zeros(len(ids), dtype=bool)
    if config.e_cut is not None:
        chosen[order] = _changes(data, ids[order], codes[order], config.e_cut)
    lacking = ~np.isin(codes, codes[chosen])
    rest = order[lacking[order]]
    chosen[rest[_places(codes[rest], config.steps)]] = True
    return ids[chosen], _left_out(data, ids[~chosen], config)


def _changes(
    data: Dataset, ids: NDArray[np.int64], codes: NDArray[np.int32], e_cut: float
) -> NDArray[np.bool_]:
    """Mask of the steps behind which the energy changes; ordered by trajectory, then step."""
    changes = np.zeros(len(ids), dtype=bool)
    per_atom = data.energy[ids] / data.n_atoms[ids]
    known = np.flatnonzero(np.isfinite(per_atom))
    here, following = known[:-1], known[1:]
    differ = np.abs(per_atom[here] - per_atom[following]) > e_cut
    changes[here[differ & (codes[here] == codes[following])]] = True
    return changes


def _places(codes: NDArray[np.int32], places: tuple[float, ...]) -> NDArray[np.int64]:
    """Positions of the steps nearest to the places along each run of equal codes."""
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    last = np.append(first[1:], len(codes)) - 1
    steps = [np.floor(first + place * (last - first) + 0.5) for place in places]
    return np.unique(np.concatenate(steps).astype(np.int64))


def _left_out(data: Dataset, ids: NDArray[np.int64], config: SelectionConfig) -> Removed:
    assert config.steps is not None
    places = ", ".join(f"{place:.3g}" for place in config.steps)
    rule = f"not at the places {places} of its trajectory"
    if config.e_cut is not None:
        rule = (
            f"the next step differs by no more than {config.e_cut:g} eV/atom "
            f"(where all do, not at {places} of the trajectory)"
        )
    return Removed(rule, len(ids), data.name(int(ids[0])) if len(ids) else "")
