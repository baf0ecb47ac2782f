"""Mean squared displacement in the plane, and diffusion.

In coordinates of the lattice vectors, times the mean cell, so that a breathing cell moves no atom;
the centre of mass of the layer is at rest.
Axes: T frames, N atoms, L lags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from .tracks import Array, Track

SEGMENTS = 5
"""A trajectory is cut into so many; the scatter of their slopes gives the error of the mean."""

FIT = (0.1, 0.5)
"""Of a segment's length: the lags between which the slope is fitted."""


@dataclass(frozen=True)
class Diffusion:
    """Of one element.

    Attributes
    ----------
    lag : (L,) ps
    msd : (L,) Å², over all atoms, replicas and times to start from
    coefficient, error : D in Å²/ps from MSD = 4 D t, and its standard error; NaN where there are
        too few frames
    """

    lag: Array
    msd: Array
    coefficient: float
    error: float


def diffusion(tracks: Sequence[Track]) -> dict[str, Diffusion]:
    """By element, for replicas of the same atoms with equally spaced frames at known times.

    Raises ValueError where they are not.
    """
    tracks = [_without_stop(track) for track in tracks]
    step = frame_interval(tracks)
    length = min(map(len, tracks))
    displaced = [in_plane(track) for track in tracks]
    found = {}
    for z in np.unique(tracks[0].numbers).tolist():
        own = [positions[:, tracks[0].numbers == z] for positions in displaced]
        msd = np.mean([mean_squared_displacement(p[:length]) for p in own], axis=0)
        slopes = np.array([slope for p in own for slope in _slopes(p, step)])
        few = len(slopes) < 2
        found[chemical_symbols[z]] = Diffusion(
            lag=step * np.arange(length),
            msd=msd,
            coefficient=np.nan if few else float(slopes.mean() / 4),
            error=np.nan if few else float(slopes.std(ddof=1) / np.sqrt(len(slopes)) / 4),
        )
    return found


def frame_interval(tracks: Sequence[Track]) -> float:
    """ps between frames. Raises ValueError where that is not known, or not the same."""
    steps = []
    for track in tracks:
        if track.time is None or len(track) < 2:
            raise ValueError(
                f"{track.name}: without the times of at least two frames there is no displacement "
                "against time; give the time between frames with --interval"
            )
        steps.append(np.diff(track.time))
    every = np.concatenate(steps)
    if np.ptp(every) > 1e-3 * every.mean():
        uneven = [np.ptp(own) > 1e-3 * own[0] for own in steps]
        name = tracks[uneven.index(True)].name if any(uneven) else "these replicas"
        raise ValueError(
            f"the frames of {name} are not equally spaced in time (from {every.min():g} to "
            f"{every.max():g} ps); if some are missing, leave out the rest"
        )
    return float(every.mean())


def _without_stop(track: Track) -> Track:
    """Without a last frame that came early: the last good one of a replica that was stopped."""
    if track.time is None or len(track) < 3:
        return track
    steps = np.diff(track.time)
    return track.cut(0, -1) if steps[-1] < (1 - 1e-3) * steps[:-1].min() else track


def in_plane(track: Track) -> Array:
    """(T, N, 2) Å, unwrapped places in the mean cell, relative to the centre of mass."""
    plane = track.plane
    fractional = track.pos @ np.linalg.pinv(plane)
    weight = track.masses / track.masses.sum()
    fractional = fractional - (fractional * weight[:, None]).sum(1, keepdims=True)
    mean = plane.mean(0)
    first = mean[0] / np.linalg.norm(mean[0])
    second = mean[1] - (mean[1] @ first) * first
    axes = np.stack([first, second / np.linalg.norm(second)])
    return np.asarray(fractional @ (mean @ axes.T))


def mean_squared_displacement(pos: Array) -> Array:
    """(T,) Å² at each lag from (T, N, 2) positions, the mean over atoms and times to start from.

    By Fourier transforms: V. Calandrini et al., Collection SFN 12, 201 (2011), section 4.2.1.
    """
    n_frames = len(pos)
    pos = pos - pos.mean(0)  # of large numbers differences would be lost
    starts = np.arange(n_frames, 0, -1)
    spectrum = np.abs(np.fft.rfft(pos, 2 * n_frames, axis=0)) ** 2
    product = np.fft.irfft(spectrum, 2 * n_frames, axis=0)[:n_frames].sum((1, 2)) / starts
    square = (pos**2).sum((1, 2))
    left_out = np.concatenate([[0.0], np.cumsum(square[::-1] + square)[:-1]])
    squares = (2 * square.sum() - left_out) / starts
    return np.asarray((squares - 2 * product) / pos.shape[1])


def _slopes(pos: Array, step: float) -> list[float]:
    """Å²/ps, of each segment that is long enough for a line."""
    length = len(pos) // SEGMENTS
    first, last = max(1, int(FIT[0] * length)), int(FIT[1] * length)
    if last - first < 2:
        return []
    lags = step * np.arange(first, last + 1)
    slopes = []
    for k in range(SEGMENTS):
        msd = mean_squared_displacement(pos[k * length : (k + 1) * length])
        slopes.append(float(np.polyfit(lags, msd[first : last + 1], 1)[0]))
    return slopes
