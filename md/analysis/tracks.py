"""Trajectories as arrays: every replica in one piece, across the boundaries of its cell.

Axes: T frames, N atoms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from mlff2d.atoms import canonical_slab
from mlff2d.errors import StructureError
from mlff2d.reading import iter_structures

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Track:
    """One replica on its way.

    Attributes
    ----------
    name : file, and replica where it holds several
    numbers, masses : (N,) atomic numbers, and masses in u
    pbc : (3,) True along the two lattice vectors of the layer
    pos : (T, N, 3) Å; an atom that leaves the cell stays outside
    cell : (T, 3, 3) rows in Å
    time : (T,) ps, or None where the frames do not say and nobody else does
    temperature : (T,) K, NaN where a frame has neither temperature nor momenta
    energy : (T,) eV, NaN where a frame has none
    structure : number that the frames give their structure among those of a run, else 0
    """

    name: str
    numbers: NDArray[np.int64]
    masses: Array
    pbc: NDArray[np.bool_]
    pos: Array
    cell: Array
    time: Array | None
    temperature: Array
    energy: Array
    structure: int = 0

    def __len__(self) -> int:
        return len(self.pos)

    @property
    def formula(self) -> str:
        """Such as MoS2, of all atoms reduced."""
        return str(Atoms(self.numbers).symbols.formula.reduce()[0])

    @property
    def plane(self) -> Array:
        """(T, 2, 3) lattice vectors of the layer, Å."""
        return self.cell[:, self.pbc]

    @property
    def area(self) -> Array:
        """(T,) Å² of the whole cell."""
        plane = self.plane
        return np.linalg.norm(np.cross(plane[:, 0], plane[:, 1]), axis=1)

    def cut(self, first: int, last: int | None = None, stride: int = 1) -> Track:
        """Some of the frames."""
        some = slice(first, last, stride)
        return replace(
            self,
            pos=self.pos[some],
            cell=self.cell[some],
            time=None if self.time is None else self.time[some],
            temperature=self.temperature[some],
            energy=self.energy[some],
        )


def read_tracks(paths: Sequence[Path], interval: float | None, notes: list[str]) -> list[Track]:
    """The replicas in trajectories of any program, in the order of their first frames.

    Frames of a file belong together that have the same `replica` (and `structure`) in info, those
    without are one replica. Times come from `time_fs` in info, else from the `interval` in fs
    between frames. A frame that cannot be read is left out, with a sentence in `notes`, and so are
    the last frames of a run (`X-last.extxyz`) whose trajectory is given too. Raises StructureError
    for a file or a replica without frames, for one whose atoms change, and for what
    is no slab.
    """
    tracks = []
    for path in paths:
        if path.stem.endswith("-last") and path.with_stem(path.stem[: -len("-last")]) in paths:
            notes.append(f"left out: {path}, whose run is given as a whole")
            continue
        found: dict[tuple[int, int], list[Atoms]] = {}
        for index, frame in iter_structures(path):
            if isinstance(frame, StructureError):
                notes.append(f"left out: {frame}")
                continue
            key = tuple(int(frame.info.get(name, 0)) for name in ("structure", "replica"))
            frames = found.setdefault((key[0], key[1]), [])
            if frames and not np.array_equal(frames[0].numbers, frame.numbers):
                raise StructureError(
                    f"{path}, frame {index}: other atoms than in the frames before it; analyse one "
                    "structure at a time, or give the frames of each a number `replica` in info"
                )
            frames.append(frame)
        if not found:
            raise StructureError(f"{path} holds no frame that can be read")
        for (structure, number), frames in found.items():
            name = path.name if len(found) == 1 else f"{path.name}, replica {number}"
            tracks.append(replace(_track(name, frames, interval), structure=structure))
    return tracks


def _track(name: str, frames: list[Atoms], interval: float | None) -> Track:
    first = canonical_slab(frames[0])
    if first.axis is None:
        raise StructureError(
            f"{name} is no slab; set pbc True along the two lattice vectors of the layer alone"
        )
    cell = np.array([atoms.cell.array for atoms in frames])
    pos = np.array(list(_heights_in_one_piece(name, frames, first.axis)))
    return Track(
        name=name,
        numbers=frames[0].numbers.astype(np.int64),
        masses=frames[0].get_masses(),
        pbc=first.pbc,
        pos=unwrapped(pos, cell[:, first.pbc]),
        cell=cell,
        time=_times(frames, interval),
        temperature=np.array([_temperature(atoms) for atoms in frames]),
        energy=np.array([_energy(atoms) for atoms in frames]),
    )


def _heights_in_one_piece(name: str, frames: list[Atoms], axis: int) -> Iterator[Array]:
    for k, atoms in enumerate(frames):
        slab = canonical_slab(atoms)
        if slab.axis != axis:
            raise StructureError(f"{name}, frame {k}: no longer a slab with the same vacuum")
        yield slab.pos


def unwrapped(pos: Array, plane: Array) -> Array:
    """(T, N, 3) positions without jumps of whole lattice vectors, from (T, N, 3) and (T, 2, 3).

    In coordinates of the lattice vectors, so that a change of the cell moves no atom; right where
    an atom moves less than half a lattice vector from frame to frame.
    """
    inverse = np.linalg.pinv(plane)
    fractional = pos @ inverse
    jumps = np.zeros_like(fractional)
    jumps[1:] = -np.round(np.diff(fractional, axis=0)).cumsum(axis=0)
    return pos + jumps @ plane


def _times(frames: list[Atoms], interval: float | None) -> Array | None:
    if interval is not None:
        return 0.001 * interval * np.arange(len(frames))
    try:
        times = np.array([float(atoms.info["time_fs"]) for atoms in frames])
    except (KeyError, TypeError, ValueError):
        return None
    # Frames of a run that was repeated from an earlier step on are no time series.
    return 0.001 * times if len(times) < 2 or (np.diff(times) > 0).all() else None


def _temperature(atoms: Atoms) -> float:
    """K, as the frame says, else from its momenta: of 3N - 3 degrees of freedom."""
    if "temperature" in atoms.info:
        return float(atoms.info["temperature"])
    if not atoms.has("momenta"):
        return np.nan
    return float(2 * atoms.get_kinetic_energy() / (max(3 * len(atoms) - 3, 1) * units.kB))


def _energy(atoms: Atoms) -> float:
    results = getattr(atoms.calc, "results", {})
    return float(results.get("energy", np.nan))
