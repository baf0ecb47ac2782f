r"""Ripples: how much of each wave the middle surface of a layer holds.

Of a surface that bends with rigidity κ and small slopes each wave has

    <|h(q)|²> = kT / (A κ q⁴),

with h(q) as in `mlff2d.md.dynamics.corrugation` and A the area of the cell; waves longer than
2π/q*, q* = sqrt(3 kT Y / 16π κ²), are stiffened by the tension that they cause, Y being the
in-plane modulus: for graphene at 300 K below about 0.24 1/Å (A. Fasolino, J. H. Los and M. I.
Katsnelson, Nat. Mater. 6, 858 (2007)). A tension σ adds σ q² to κ q⁴.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import units

from ..blocks import block_error
from ..dynamics.corrugation import waves
from .tracks import Array, Track

Q_RANGE = (0.0, 0.5)
"""1/Å, the waves that the rigidity is fitted to: longer than 12.6 Å."""

BIN = 0.02
"""1/Å, the width of a bin."""


@dataclass(frozen=True)
class Ripples:
    """Axes: Q bins of wave numbers that hold a wave.

    Attributes
    ----------
    q : (Q,) 1/Å, the mean of the waves in a bin
    square : (Q,) Å², the mean of |h(q)|²
    error : (Q,) its standard error; NaN where there are too few frames
    area : Å², the mean of the cell
    temperature : K, the mean
    q_range : 1/Å, of the waves that were fitted
    rigidity, rigidity_error : κ in eV and its standard error; NaN where no wave is in the range or
        the temperature is not known
    exponent : of q in a power law through the bins of the range: -4 where the equation above holds
    """

    q: Array
    square: Array
    error: Array
    area: float
    temperature: float
    q_range: tuple[float, float]
    rigidity: float
    rigidity_error: float
    exponent: float


def ripples(
    tracks: Sequence[Track],
    temperature: float | None = None,
    q_range: tuple[float, float] = Q_RANGE,
) -> Ripples | None:
    """The spectrum of replicas of the same layer; None where the cell holds no wave that counts.

    The rigidity is the most likely one where each wave is a Gaussian variable of the variance
    above: 1/κ is the mean of A q⁴ |h(q)|² / kT over waves and frames. `temperature` in K, else that
    of the frames.
    """
    heat = [track.temperature if temperature is None else temperature for track in tracks]
    kelvin = float(np.mean([np.mean(t) for t in heat]))
    spectra = [_spectrum(track, q_range) for track in tracks]
    n_bins = max(spectrum.counts.shape[1] for spectrum in spectra)
    if n_bins == 0:
        return None
    spectra = [spectrum.padded(n_bins) for spectrum in spectra]
    counts = np.concatenate([spectrum.counts for spectrum in spectra])
    held = counts.sum(0) > 0
    q = np.concatenate([s.q_sums for s in spectra]).sum(0)[held] / counts.sum(0)[held]
    means = [
        _mean_of([spectrum.series(b) for spectrum in spectra])
        for b in np.flatnonzero(held).tolist()
    ]
    square, square_error = np.array(means).T
    value, error = _mean_of([spectrum.softness / (units.kB * kelvin) for spectrum in spectra])
    fitted = (q >= q_range[0]) & (q <= q_range[1]) & (square > 0)
    exponent = np.nan
    if fitted.sum() > 1:
        exponent = float(np.polyfit(np.log(q[fitted]), np.log(square[fitted]), 1)[0])
    return Ripples(
        q=q,
        square=square,
        error=square_error,
        area=float(np.mean(np.concatenate([track.area for track in tracks]))),
        temperature=kelvin,
        q_range=q_range,
        rigidity=1 / value if value > 0 else np.nan,
        rigidity_error=error / value**2 if value > 0 else np.nan,
        exponent=exponent,
    )


@dataclass(frozen=True)
class _Spectrum:
    """The waves of a replica, whose number may change with its cell. Axes: T frames, B bins.

    Attributes
    ----------
    counts, sums, q_sums : (T, B) number of waves, and sums of |h(q)|² in Å² and of |q| in 1/Å
    softness : (T,) 1 / κ times kT, the mean of A q⁴ |h(q)|² over the waves of a range; NaN for none
    """

    counts: Array
    sums: Array
    q_sums: Array
    softness: Array

    def padded(self, n_bins: int) -> _Spectrum:
        """With empty bins behind the others."""
        more = ((0, 0), (0, n_bins - self.counts.shape[1]))
        counts, sums, q_sums = (np.pad(t, more) for t in (self.counts, self.sums, self.q_sums))
        return _Spectrum(counts, sums, q_sums, self.softness)

    def series(self, b: int) -> Array:
        """Å², the mean over the waves of a bin, of the frames that have one."""
        held = self.counts[:, b] > 0
        return np.asarray(self.sums[held, b] / self.counts[held, b])


def _spectrum(track: Track, q_range: tuple[float, float]) -> _Spectrum:
    pbc = torch.from_numpy(track.pbc)
    tables: list[list[Array]] = [[], [], []]
    softness = np.full(len(track), np.nan)
    frames = zip(track.pos, track.cell, track.area, strict=True)
    for t, (pos, cell, area) in enumerate(frames):
        found = waves(torch.from_numpy(pos), torch.from_numpy(cell), pbc)
        q, square = (tensor.numpy() for tensor in found)
        bins = (q / BIN).astype(int)
        for table, weights in zip(tables, (None, square, q), strict=True):
            table.append(np.bincount(bins, weights).astype(float))
        chosen = (q >= q_range[0]) & (q <= q_range[1])
        if chosen.any():
            softness[t] = area * (q[chosen] ** 4 * square[chosen]).mean()
    n_bins = max(map(len, tables[0]))
    counts, sums, q_sums = (
        np.stack([np.pad(row, (0, n_bins - len(row))) for row in table]) for table in tables
    )
    return _Spectrum(counts, sums, q_sums, softness)


def _mean_of(series: list[Array]) -> tuple[float, float]:
    """Mean and its error over replicas that know nothing of each other, each as long as it is."""
    known = [values[np.isfinite(values)] for values in series]
    known = [values for values in known if len(values)]
    if not known:
        return np.nan, np.nan
    weights = np.array([len(values) for values in known], dtype=float)
    weights /= weights.sum()
    means = np.array([values.mean() for values in known])
    errors = np.array([block_error(values) for values in known])
    return float(weights @ means), float(np.sqrt((weights**2 * errors**2).sum()))
