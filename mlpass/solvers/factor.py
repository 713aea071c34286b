"""The upper Cholesky factor of a Gram, by blocks: nearly all of its work is matrix products.

A sweep over columns needs `gram = U U^T` with U upper triangular: column j of `D U`, for a change D
of the weight, is then what the columns up to j leave of the output error, so that each column in
turn can make up for those before it. That is the inverse's factor of SparseGPT, U^-1, without the
inverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import as_factor, host, triangular_inverse
from mlpass.parallel import map_items
from mlpass.solvers.products import Float, mirror, pairs, product

_BLOCK = 128


def factor_in_place(gram: NDArray[np.float64]) -> None:
    """Makes of a Gram the upper triangular U with a positive diagonal for which `U U^T` is it.

    Args:
        gram: (columns, columns), symmetric positive definite.

    Raises:
        numpy.linalg.LinAlgError: it is not positive definite; it is spoilt then.
    """
    for stop in range(len(gram), 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        panel, known = gram[None, :stop, start:stop], gram[None, :stop, stop:]
        panel -= product(known, known[:, start:].swapaxes(1, 2))
        corner = np.linalg.cholesky(panel[0, start:, ::-1][::-1])[::-1, ::-1]
        corner = host(as_factor(corner))
        panel[:, :start] = product(panel[:, :start], triangular_inverse(corner[None]).mT)
        panel[:, start:] = corner
        gram[stop:, start:stop] = 0


def inverse(upper: Float) -> Float:
    """Returns `(U U^T)^-1` of an upper triangular U.

    Args:
        upper: (columns, columns).
    """
    columns = len(upper)
    lower = np.zeros_like(upper)  # U^-T, whose rows come one block after the other
    for start in range(0, columns, _BLOCK):
        _next_rows(lower, upper, start, min(columns, start + _BLOCK))
    square = np.empty((1, columns, columns), upper.dtype)

    def multiply(pair: tuple[slice, slice, slice]) -> None:
        _, left, right = pair
        square[0, left, right] = lower[left, : left.stop] @ lower[right, : left.stop].T

    map_items(multiply, pairs(1, columns, columns))
    mirror(square)
    result: Float = square[0]
    return result


def _next_rows(lower: Float, upper: Float, start: int, stop: int) -> None:
    """Sets the rows of U^-T from `start` to `stop`, which follow from those before."""
    corner = triangular_inverse(upper[None, start:stop, start:stop]).mT[0, ...]
    lower[start:stop, start:stop] = corner

    def solve(left: int) -> None:
        part = slice(left, min(start, left + 2 * _BLOCK))
        known = lower[left:start, part]
        lower[start:stop, part] = -corner @ (upper[left:start, start:stop].T @ known)

    map_items(solve, range(0, start, 2 * _BLOCK))
