"""Which structures are relaxed, and which of the data count as relaxed. Axis: S structures."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlff2d import slab

from ..data.compositions import compositions_of
from ..data.dataset import Dataset
from ..data.splits import uniform_of
from .journal import CONVERGED, Relaxed

Ids = NDArray[np.int64]


def first_frames(data: Dataset, ids: Ids) -> Ids:
    """The first frame of each trajectory, of those that are slabs."""
    _, first = np.unique(data.trajectory.codes[ids], return_index=True)
    starts = ids[np.sort(first)]
    slabs = data.rows_of("pbc", starts).sum(1) == 2
    if not slabs.any():
        raise ValueError("none of the structures is a slab, so that there is no area to compare")
    return starts[slabs]


def relaxed_frames(
    data: Dataset, ids: Ids, starts: Ids, fmax: float, lines: list[str]
) -> tuple[Ids, Ids]:
    """Starts whose trajectory has a relaxed frame, and that frame: the one with the lowest force.

    It has the composition of the start, and no force component above `fmax` eV/Å; of a trajectory
    without forces it is the last frame. Raises ValueError where there is none.
    """
    codes, start_codes = data.trajectory.codes[ids], data.trajectory.codes[starts]
    made_of = compositions_of(data, ids).of
    place = np.searchsorted(ids, starts)
    start_of = dict(zip(start_codes.tolist(), place.tolist(), strict=True))
    best: dict[int, tuple[float, int]] = {}
    for k, code in enumerate(codes.tolist()):
        start = start_of.get(code)
        if start is None or made_of[k] != made_of[start]:
            continue
        force = float(data.max_force[ids[k]])
        known = force if np.isfinite(force) else np.inf
        if code not in best or known <= best[code][0]:
            best[code] = (known, k)
    forces = [best[code][0] if code in best else np.nan for code in start_codes.tolist()]
    kept = [force <= fmax or force == np.inf for force in forces]
    if not any(kept):
        raise ValueError(
            f"no trajectory has a frame whose forces are all below {fmax:g} eV/Å, so that nothing "
            "says what the relaxed structures are; give a potential that does with --reference, "
            "or a higher --reference-fmax"
        )
    last = np.array([ids[best[c][1]] for c in start_codes[kept].tolist()])
    stress = np.abs(data.stress_2d[last]).max(1)
    lines.append(
        f"The reference is the frame with the lowest force of each of {len(last):,} trajectories "
        f"({len(kept) - len(last):,} others have none below {fmax:g} eV/Å): median of the largest "
        f"force component {np.nanmedian(data.max_force[last]):.3f} eV/Å, of the largest in-plane "
        f"stress {np.nanmedian(stress):.2f} N/m."
        if np.isfinite(data.max_force[last]).any()
        else f"The reference is the last frame of each of {len(last):,} trajectories; the data "
        "hold no forces that would show whether it is relaxed."
    )
    return starts[np.array(kept)], last


def limited(data: Dataset, starts: Ids, limit: int | None) -> NDArray[np.int64]:
    """Places of the starts to take, ascending."""
    if limit is None or limit >= len(starts):
        return np.arange(len(starts))
    drawn = np.argsort([uniform_of(data.trajectory[int(s)], 0) for s in starts], kind="stable")
    return np.sort(drawn[:limit])


def structure(data: Dataset, s: int, state: tuple[str, ...] = ()) -> Atoms:
    """A structure of the data set, with the state that a model takes in."""
    atoms = Atoms(
        data.atoms_of("z", [s]),
        positions=data.atoms_of("pos", [s]),
        cell=data.rows_of("cell", [s])[0],
        pbc=data.rows_of("pbc", [s])[0],
    )
    atoms.info.update(zip(state, data.rows_of("state", [s])[0].tolist(), strict=True))
    return atoms


def as_it_is(data: Dataset, s: int) -> Relaxed:
    """A structure of the data set as one that needs no relaxation; the energy is its label."""
    atoms = structure(data, s)
    a, b = atoms.cell.lengths()[atoms.pbc]
    energy = float(data.energy[s] / data.n_atoms[s])
    return Relaxed(
        status=CONVERGED,
        met=True,
        energy=energy,
        area=slab.area(atoms.cell.array, atoms.pbc) / len(atoms),
        a=float(a),
        b=float(b),
        thickness=slab.thickness(atoms.positions, atoms.cell.array, atoms.pbc),
    )
