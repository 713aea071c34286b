"""The upper Cholesky factor of a Gram, by blocks: nearly all of its work is matrix products.

A sweep over columns needs `gram = U U^T` with U upper triangular: column j of `D U`, for a change D
of the weight, is then what the columns up to j leave of the output error, so that each column in
turn can make up for those before it. That is the inverse's factor of SparseGPT, U^-1, without the
inverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32] | NDArray[np.float64]

_BLOCK = 128


def upper_factor(gram: Float) -> Float:
    """Returns the upper triangular U with a positive diagonal for which `U U^T` is `gram`.

    Args:
        gram: (columns, columns), symmetric positive definite, fp32 or fp64.

    Raises:
        numpy.linalg.LinAlgError: it is not positive definite in its precision.
    """
    columns = len(gram)
    upper = np.zeros_like(gram)
    for stop in range(columns, 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        panel = gram[:stop, start:stop] - upper[:stop, stop:] @ upper[start:stop, stop:].T
        corner = np.linalg.cholesky(panel[start:][::-1, ::-1])[::-1, ::-1]
        upper[start:stop, start:stop] = corner
        upper[:start, start:stop] = panel[:start] @ np.linalg.inv(corner).T
    return upper


def inverse(upper: Float) -> Float:
    """Returns `(U U^T)^-1` of an upper triangular U.

    Args:
        upper: (columns, columns).
    """
    columns = len(upper)
    lower = np.zeros_like(upper)  # U^-T, whose rows come one block after the other
    for start in range(0, columns, _BLOCK):
        stop = min(columns, start + _BLOCK)
        corner = np.linalg.inv(upper[start:stop, start:stop]).T
        for left in range(0, start, 4 * _BLOCK):
            part = slice(left, min(start, left + 4 * _BLOCK))
            known = lower[left:start, part]
            lower[start:stop, part] = -corner @ (upper[left:start, start:stop].T @ known)
        lower[start:stop, start:stop] = corner
    return lower @ lower.T  # numpy hands this to syrk
