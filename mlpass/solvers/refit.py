"""The best weights for a mask: masked least squares by conjugate gradients, all rows at once."""

from __future__ import annotations

import numpy as np

from mlpass.parallel import map_items
from mlpass.solvers.problem import Array, Problem
from mlpass.solvers.products import Part, row_parts
from mlpass.sparsity.modes import Mask


def refit(
    problem: Problem, keep: Mask, weight: Array, iterations: int = 8, dampening: float = 0.0
) -> Array:
    """Returns the weight with its kept elements moved towards the smallest output error.

    Each row solves `(W' - W) G = 0` on its kept columns, preconditioned by the Gram's diagonal.
    Conjugate gradients lower the error in every iteration, so any number of them does no harm.
    Inputs that do not correlate leave nothing to make up for: with a diagonal Gram, all stays.

    Args:
        problem: with the weight whose output is wanted.
        keep: (groups, rows, columns).
        weight: where to start, zero outside `keep`.
        iterations: one product with the Gram each.
        dampening: added to the Gram's diagonal, where few samples would otherwise be fitted.
    """
    if problem.gram.is_diagonal:
        return weight
    gram, extra = problem.gram.matrix, np.float32(dampening)
    diagonal: Array = np.add(problem.gram.diagonal, extra)
    inverse = np.divide(1, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)
    result = weight.copy()

    def solve_rows(part: Part) -> None:
        kept, square = keep[part], gram[part[0]]
        scale = kept * inverse[part[0], None]  # the mask and it in one
        offset = problem.weight[part] - weight[part]
        residual: Array = np.matmul(offset, square)
        residual += extra * offset
        residual *= kept
        step: Array = np.multiply(residual, scale)
        power = _dots(residual, step)
        for _ in range(iterations):
            image = step @ square
            image += extra * step
            curvature = _dots(step, image)
            length = np.divide(power, curvature, out=np.zeros_like(power), where=curvature > 0)
            result[part] += length * step
            image *= kept
            image *= length
            residual -= image
            scaled: Array = np.multiply(residual, scale)
            previous, power = power, _dots(residual, scaled)
            turn = np.divide(power, previous, out=np.zeros_like(power), where=previous > 0)
            step *= turn
            step += scaled

    groups, rows, columns = weight.shape
    map_items(solve_rows, row_parts(groups, rows, columns * columns))
    return result


def _dots(first: Array, second: Array) -> Array:
    """Returns the product of each row with its like, (groups, rows, 1)."""
    products: Array = np.einsum("grc,grc->gr", first, second)[..., None]
    return products
