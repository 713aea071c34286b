"""The best weights for a mask: masked least squares by conjugate gradients, all rows at once."""

from __future__ import annotations

import numpy as np

from mlpass.solvers.problem import Array, Problem
from mlpass.sparsity.modes import Mask


def refit(
    problem: Problem, keep: Mask, weight: Array, iterations: int = 8, dampening: float = 0.0
) -> Array:
    """Returns the weight with its kept elements moved towards the smallest output error.

    Each row solves `(W' - W) G = 0` on its kept columns, preconditioned by the Gram's diagonal.
    Conjugate gradients lower the error in every iteration, so any number of them does no harm.

    Args:
        problem: with the weight whose output is wanted.
        keep: (groups, rows, columns).
        weight: where to start, zero outside `keep`.
        iterations: one product with the Gram each.
        dampening: added to the Gram's diagonal, where few samples would otherwise be fitted.
    """
    gram = problem.gram
    diagonal: Array = np.diagonal(gram, axis1=1, axis2=2) + np.float32(dampening)
    inverse: Array = np.zeros(diagonal.shape, np.float32)
    np.divide(1, diagonal, out=inverse, where=diagonal > 0)
    scale = keep * inverse[:, None, :]  # the mask and it in one
    result = weight.copy()
    offset = problem.weight - weight
    residual: Array = np.matmul(offset, gram)
    if dampening:
        residual += np.float32(dampening) * offset
    residual *= keep
    step: Array = residual * scale
    power = _dots(residual, step)
    for _ in range(iterations):
        image = step @ gram
        if dampening:
            image += np.float32(dampening) * step
        curvature = _dots(step, image)
        length = np.divide(power, curvature, out=np.zeros_like(power), where=curvature > 0)
        result += length * step
        image *= keep
        residual -= length * image
        scaled: Array = residual * scale
        previous, power = power, _dots(residual, scaled)
        turn = np.divide(power, previous, out=np.zeros_like(power), where=previous > 0)
        step *= turn
        step += scaled
    return result


def _dots(first: Array, second: Array) -> Array:
    """Returns the product of each row with its like, (groups, rows, 1)."""
    products: Array = np.einsum("grc,grc->gr", first, second)[..., None]
    return products
