"""A weight on a grid is settled: its values and its codes in turns, as long as that pays.

A sweep rounds each column once, and fits the grid's values before it knows what they are for. Here
the codes stay as they are while the values, tables or scales, take their least squares on the Gram;
then these stay, and each element in turn takes the value that is best for all others as they are.
Both only ever lower the output error.

Sources: van Baalen et al. 2024, "GPTVQ", arXiv 2402.15319 (values by least squares after the
sweep); Nair and Suggala 2024, "CDQuant", arXiv 2406.17542 (codes by coordinate descent).
"""

from __future__ import annotations

import numpy as np

from mlpass.arrays import Array, host, ratio, row_dots
from mlpass.solvers.problem import Problem
from mlpass.solvers.products import product
from mlpass.storage.storage import Floats, Grid, Movable

ROUNDS = 3
_BLOCK = 64  # columns whose changes are carried to the others by one product
_STEPS = 2  # conjugate gradients for the values, which follow the codes from round to round


def settle(
    problem: Problem, grid: Grid, weight: Array, keep: Array, dampening: float, rounds: int = ROUNDS
) -> Floats:
    """Returns a weight on a grid with its values and codes settled; the grid's are set likewise.

    Args:
        problem: with the target, whose outputs are wanted, in numpy's arrays; its Gram is not
            diagonal.
        grid: whose codes are those of `weight`.
        weight: (groups, rows, columns), zero outside `keep`.
        keep: its mask.
        dampening: fraction of a group's mean diagonal that is added to it, where few samples would
            otherwise be fitted.
        rounds: how often both are settled.
    """
    added = np.float32(dampening) * host(problem.gram.means)[:, None]
    target, kept, found = host(problem.target), host(keep), host(weight)
    square: Floats = np.array(host(problem.gram.matrix))
    np.einsum("gcc->gc", square)[:] += added
    for _ in range(rounds):
        if isinstance(grid, Movable):
            found = _fit(square, target, grid, found, kept)
        found = _descend(square, target, grid, found, kept)
    return found


def _fit(square: Floats, target: Floats, grid: Movable, weight: Floats, keep: Floats) -> Floats:
    """Returns the weight with the values of its grid at least squares, its codes as they are."""
    power = np.einsum("gcc->gc", square)
    scale: Floats = host(ratio(1, grid.gathered(power[:, None] * keep, squared=True)))
    residual = grid.gathered(product(target - weight, square) * keep)
    moved = np.zeros_like(residual)
    step = residual * scale
    gain: Floats = host(row_dots(residual, step))[:, None]
    for _ in range(_STEPS):
        image = grid.gathered(product(grid.spread(step) * keep, square) * keep)
        length = host(ratio(gain, row_dots(step, image)[:, None]))
        moved += length * step
        residual -= length * image
        scaled = residual * scale
        previous, gain = gain, host(row_dots(residual, scaled))[:, None]
        step = scaled + host(ratio(gain, previous)) * step
    return grid.moved(moved) * keep


def _descend(square: Floats, target: Floats, grid: Grid, weight: Floats, keep: Floats) -> Floats:
    """Returns the weight with each column in turn at the values that are best for all others."""
    columns = weight.shape[2]
    rounded = grid.rounding(np.arange(columns))
    inverse = host(ratio(1, np.einsum("gcc->gc", square)))[:, :, None]
    shares = square * inverse  # what a column wants less of by a unit more of another
    wanted = _turned(product(target - weight, square)) * inverse
    current = _turned(weight)
    wanted += current
    stays = None if keep.all() else _turned(keep)
    for left in range(0, columns, _BLOCK):
        right = min(columns, left + _BLOCK)
        changed = np.zeros_like(current[:, left:right])
        for column in range(left, right):
            place, own = column - left, wanted[:, column]
            if place:
                own -= (shares[:, None, column, left:column] @ changed[:, :place])[:, 0]
            if stays is None:
                after = host(rounded(column, own))
            else:
                after = host(rounded(column, own * stays[:, column])) * stays[:, column]
            np.subtract(after, current[:, column], out=changed[:, place])
            current[:, column] = after
        if right < columns:
            wanted[:, right:] -= product(shares[:, right:, left:right], changed)
    return _turned(current)


def _turned(values: Floats) -> Floats:
    return np.ascontiguousarray(values.swapaxes(1, 2))
