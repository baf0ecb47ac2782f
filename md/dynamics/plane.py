"""Maps of atoms and cells within the planes of slabs.

Products are written as sums of terms: a product of matrices may round differently with the number
of replicas. `axes` (S, 2, 3) are orthonormal axes of the planes, see `plane_axes`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..relaxation.cell import in_plane


def lattice(cell: Tensor, pbc: Tensor, axes: Tensor) -> Tensor:
    """(S, 2, 2) the periodic lattice vectors as rows, in the axes of the planes."""
    rows = torch.stack(in_plane(cell, pbc), 1)
    return rows_times(rows, axes.transpose(1, 2).unsqueeze(1))


def project(tensor: Tensor, axes: Tensor) -> Tensor:
    """(S, 2, 2) components in the planes of tensors (S, 3, 3)."""
    return (tensor[:, None, None] * _dyads(axes)).sum((3, 4))


def in_space(matrix: Tensor, axes: Tensor) -> Tensor:
    """(S, 3, 3) maps that are (S, 2, 2) in the planes and leave the normals as they are."""
    change = matrix - torch.eye(2, dtype=matrix.dtype, device=matrix.device)
    spread = (change[:, :, :, None, None] * _dyads(axes)).sum((1, 2))
    return spread + torch.eye(3, dtype=matrix.dtype, device=matrix.device)


def rows_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """(..., n) the rows (..., m) times matrices (..., m, n)."""
    return (rows.unsqueeze(-1) * matrix).sum(-2)


def times_identity(number: Tensor) -> Tensor:
    """(S, 2, 2) from (S,)."""
    return number[:, None, None] * torch.eye(2, dtype=number.dtype, device=number.device)


def exponential(matrix: Tensor) -> Tensor:
    """(S, 2, 2) exp of symmetric matrices."""
    mean, a, b = _parts(matrix)
    radius = torch.hypot(a, b)
    # sinh(r)/r; below the threshold the next term of its series is under the rounding.
    small = radius < 1e-4
    ratio = torch.sinh(radius) / radius.masked_fill(small, 1.0)
    ratio = torch.where(small, 1 + radius**2 / 6, ratio)
    a, b, cosh = ratio * a, ratio * b, torch.cosh(radius)
    grown = torch.stack([cosh + a, b, b, cosh - a], 1) * torch.exp(mean)[:, None]
    return grown.view(-1, 2, 2)


def turning(start: Tensor, now: Tensor) -> Tensor:
    """(S, 2, 2) the rotation R, to be multiplied from the right, that undoes a turn of a cell.

    Of lattice vectors (S, 2, 2) as rows at the start and now: start⁻¹ now R is symmetric.
    """
    a, b, c, d = start.reshape(-1, 4).unbind(1)
    p, q, r, s = now.reshape(-1, 4).unbind(1)
    # Of start⁻¹ now times det(start), whose sign alone matters.
    sign = torch.sign(a * d - b * c)
    trace = ((d * p - b * r) + (a * s - c * q)) * sign
    skew = ((d * q - b * s) - (a * r - c * p)) * sign
    size = torch.hypot(trace, skew)
    cos, sin = trace / size, skew / size
    return torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)


def turned(tensor: Tensor, turn: Tensor) -> Tensor:
    """Symmetric (S, 2, 2) in axes that a rotation (S, 2, 2) from the right has turned: RᵀTR."""
    mean, a, b = _parts(tensor)
    cos, sin = turn[:, 0, 0], turn[:, 1, 0]
    twice_cos, twice_sin = cos**2 - sin**2, 2 * cos * sin
    a, b = a * twice_cos + b * twice_sin, b * twice_cos - a * twice_sin
    return torch.stack([mean + a, b, b, mean - a], 1).view(-1, 2, 2)


def _parts(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the diagonal, half of its difference, and the shear, each (S,)."""
    xx, xy, _, yy = tensor.reshape(-1, 4).unbind(1)
    return (xx + yy) / 2, (xx - yy) / 2, xy


def _dyads(axes: Tensor) -> Tensor:
    """(S, 2, 2, 3, 3) the products of two axes."""
    return axes[:, :, None, :, None] * axes[:, None, :, None, :]
