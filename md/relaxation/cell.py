r"""Strain of the cells of slabs in their planes, in coordinates that an optimiser can take.

With x the positions in the undeformed cell and C the undeformed in-plane lattice vectors (rows),

    pos = x exp(G),   C' = C exp(G),   G = Σ_k q_k B_k,

G being in the plane, so that nothing moves along the normal. The B_k are orthonormal (Frobenius)
and say which strain is free: symmetric ones (no rotation), of them those without a trace (the area
stays, det exp(G) = exp(tr G)), the identity, or those that leave one lattice vector where it is.
The logarithm of the deformation, unlike the deformation, cannot turn the cell inside out.

With W = dE/dstrain, the gradient by the coordinates is exact at any strain:

    dE/dq_k = <B_k, L(Gᵀ, exp(-G)ᵀ W)>,

L the Fréchet derivative of the exponential (Higham, Functions of Matrices, SIAM 2008, ch. 10). Both
are written out: with τ = tr G / 2, H = G - τ and H² = s, which is a number and never negative here,

    exp(G) = e^τ (cosh √s + H sinh √s / √s).

(The exponentials of libraries are good to 1e-11 only where their series is cut short.)

Axes: S structures, K = 3 coordinates, those that are not free always zero.
"""

from __future__ import annotations

from math import factorial

import torch
from torch import Tensor

from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M

N_COORDINATES = 3

_HALF = 0.5**0.5


def plane_axes(cell: Tensor, pbc: Tensor) -> Tensor:
    """(S, 2, 3) orthonormal axes of the planes, as `mlff2d.slab.plane_axes` has them."""
    rows = cell * pbc.unsqueeze(2)
    # Of three cross products that of the two periodic rows is not zero, in cyclic order.
    normal = torch.linalg.cross(rows, rows.roll(-1, dims=1)).sum(1)
    normal = normal / normal.norm(dim=1, keepdim=True)
    first = in_plane(cell, pbc)[0]
    x = first / first.norm(dim=1, keepdim=True)
    tilted = torch.stack([x, torch.linalg.cross(normal, x)], dim=1)
    flat = torch.eye(3, dtype=cell.dtype, device=cell.device)[:2].expand_as(tilted)
    return torch.where((normal[:, 2].abs() > 1 - 1e-10)[:, None, None], flat, tilted)


def in_plane(cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
    """The two periodic lattice vectors (S, 3) of each slab, the first in the order of the cell."""
    rows = cell[pbc].view(-1, 2, 3)
    return rows[:, 0], rows[:, 1]


def basis(cell: Tensor, pbc: Tensor, axes: Tensor, free: str) -> Tensor:
    """(S, K, 2, 2) the B_k in the planes' axes for a key of `CELLS`, zero for what is not free."""
    plane = torch.zeros(N_COORDINATES, 2, 2, dtype=cell.dtype, device=cell.device)
    if free == "full":
        plane[0, 0, 0] = plane[1, 1, 1] = 1.0
        plane[2, 0, 1] = plane[2, 1, 0] = _HALF
    elif free == "isotropic":
        plane[0, 0, 0] = plane[0, 1, 1] = _HALF
    elif free == "area":
        plane[0, 0, 0], plane[0, 1, 1] = _HALF, -_HALF
        plane[1, 0, 1] = plane[1, 1, 0] = _HALF
    found = plane.expand(len(cell), N_COORDINATES, 2, 2).clone()
    if free in ("a", "b"):
        kept = in_plane(cell, pbc)[0 if free == "a" else 1]
        along = (axes @ kept.unsqueeze(2)).squeeze(2)
        along = along / along.norm(dim=1, keepdim=True)
        across = torch.stack([-along[:, 1], along[:, 0]], dim=1)
        # A row vector along the kept one is mapped to zero by both.
        found[:, 0] = across.unsqueeze(2) * across.unsqueeze(1)
        found[:, 1] = across.unsqueeze(2) * along.unsqueeze(1)
    return found


def deformation(q: Tensor, basis: Tensor, axes: Tensor) -> Tensor:
    """(S, 3, 3) exp(G) in space, the identity along the normals, from coordinates (S, K)."""
    stretch = _exponential(_generator(q, basis))
    stretch = stretch - torch.eye(2, dtype=q.dtype, device=q.device)
    eye = torch.eye(3, dtype=q.dtype, device=q.device)
    return eye + axes.transpose(1, 2) @ stretch @ axes


def gradient(q: Tensor, basis: Tensor, axes: Tensor, virial: Tensor) -> Tensor:
    """(S, K) dE/dq in eV from W = dE/dstrain (S, 3, 3) in eV."""
    g = _generator(q, basis).transpose(1, 2)
    w = _exponential(-g) @ (axes @ virial @ axes.transpose(1, 2))
    return (basis * _derivative(g, w).unsqueeze(1)).sum((2, 3))


def enthalpy_virial(virial: Tensor, area: Tensor, axes: Tensor, pressure: float) -> Tensor:
    """(S, 3, 3) dH/dstrain in eV of H = E + pressure * area, from dE/dstrain.

    `area` (S,) in Å², `pressure` in N/m, the `axes` of the planes.
    """
    if not pressure:
        return virial
    force = pressure / EV_PER_ANGSTROM2_IN_N_PER_M * area
    return virial + force[:, None, None] * (axes.transpose(1, 2) @ axes)


def free_stress(stress: Tensor, basis: Tensor) -> Tensor:
    """(S, 2, 2) symmetric, the part of stresses in the planes' axes that does work on free strain.

    The basis of the undeformed cell serves at any strain: what it says stays, stays on the way too.
    """
    symmetric = (basis + basis.transpose(2, 3)) / 2
    size = torch.linalg.matrix_norm(symmetric, keepdim=True)
    symmetric = symmetric / torch.where(size == 0, 1.0, size)
    work = torch.einsum("skij,sij->sk", symmetric, stress)
    return torch.einsum("sk,skij->sij", work, symmetric)


def principal(stress: Tensor) -> Tensor:
    """(S,) largest absolute principal value of symmetric (S, 2, 2)."""
    mean = (stress[:, 0, 0] + stress[:, 1, 1]) / 2
    radius = torch.hypot((stress[:, 0, 0] - stress[:, 1, 1]) / 2, stress[:, 0, 1])
    return mean.abs() + radius


def _generator(q: Tensor, basis: Tensor) -> Tensor:
    return torch.einsum("sk,skij->sij", q, basis)


def _exponential(g: Tensor) -> Tensor:
    """(S, 2, 2) exp(G) of matrices with real eigenvalues."""
    tau, h, s = _parts(g)
    cosh, sinhc, _ = _series(s)
    return tau.exp() * (cosh * torch.eye(2, dtype=g.dtype, device=g.device) + sinhc * h)


def _derivative(g: Tensor, e: Tensor) -> Tensor:
    """(S, 2, 2) derivative of exp(G) along E."""
    eye = torch.eye(2, dtype=g.dtype, device=g.device)
    (tau, h, s), d_tau = _parts(g), _half_trace(e)
    d_h = e - d_tau * eye
    d_s = 2 * _half_trace(h @ d_h)
    cosh, sinhc, slope = _series(s)
    change = (sinhc / 2 * eye + slope * h) * d_s + sinhc * d_h
    return tau.exp() * (change + d_tau * (cosh * eye + sinhc * h))


def _parts(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tau = _half_trace(g)
    h = g - tau * torch.eye(2, dtype=g.dtype, device=g.device)
    return tau, h, _half_trace(h @ h).clamp_min(0)


def _half_trace(g: Tensor) -> Tensor:
    """(S, 1, 1)."""
    return ((g[:, 0, 0] + g[:, 1, 1]) / 2)[:, None, None]


def _series(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """cosh √s, k = sinh √s / √s and dk/ds, from the series of the last where s is below one."""
    root = s.sqrt()
    cosh, small = root.cosh(), s < 1
    divisor = torch.where(small, 1.0, s)
    slope = torch.zeros_like(s)
    for n in range(10, 0, -1):
        slope = slope * s + n / factorial(2 * n + 1)
    sinhc = torch.where(small, cosh - 2 * s * slope, root.sinh() / divisor.sqrt())
    return cosh, sinhc, torch.where(small, slope, (cosh - sinhc) / (2 * divisor))
