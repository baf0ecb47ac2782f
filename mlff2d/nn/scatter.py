"""Sums over the edges of a node or the nodes of a structure."""

from __future__ import annotations

from torch import Tensor


def segment_sum(src: Tensor, index: Tensor, n: int) -> Tensor:
    """Sum rows that share an index: out[k] = sum of src[e] with index[e] = k.

    Parameters
    ----------
    src : (E, ...)
        Rows to sum; E may be 0.
    index : (E,) int64
        Row of the result that each row goes to, in 0..n-1; any order.
    n
        Number of rows of the result.

    Returns
    -------
    (n, ...), zero where nothing goes.
    """
    return src.new_zeros((n, *src.shape[1:])).index_add(0, index, src)
