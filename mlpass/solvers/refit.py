"""The best weights for a mask: masked least squares by conjugate gradients, all rows at once."""

from __future__ import annotations

from mlpass.arrays import Array, copied, namespace, ratio, row_dots
from mlpass.parallel import map_items
from mlpass.solvers.problem import Problem
from mlpass.solvers.products import Part, jobs


def refit(
    problem: Problem, keep: Array, weight: Array, iterations: int = 8, dampening: float = 0.0
) -> Array:
    """Returns the weight with its kept elements moved towards the smallest output error.

    Each row solves `(W' - W) G = 0` on its kept columns, preconditioned by the Gram's diagonal.
    Conjugate gradients lower the error in every iteration, so any number of them does no harm.
    Inputs that do not correlate leave nothing to make up for: with a diagonal Gram, all stays.

    Args:
        problem: with the target, whose outputs are wanted.
        keep: (groups, rows, columns).
        weight: where to start, zero outside `keep`.
        iterations: one product with the Gram each.
        dampening: fraction of a group's mean diagonal that is added to it, where few samples would
            otherwise be fitted.
    """
    if problem.gram.is_diagonal:
        return weight
    gram, added = problem.gram.matrix, dampening * problem.gram.means[:, None, None]
    inverse = ratio(1, problem.gram.diagonal + added[:, 0, :])
    result = copied(weight)

    def solve_rows(part: Part) -> None:
        xp, square, extra = namespace(weight), gram[part[0], ...], added[part[0], ...]
        kept: Array = xp.astype(keep[part], xp.float32)
        scale = kept * inverse[part[0], None, :]  # the mask and it in one
        offset = problem.target[part] - weight[part]
        residual = offset @ square
        residual += extra * offset
        residual *= kept
        step = residual * scale
        power = _dots(residual, step)
        for _ in range(iterations):
            image = step @ square
            image += extra * step
            curvature = _dots(step, image)
            length = ratio(power, curvature)
            result[part] += length * step
            image *= kept
            image *= length
            residual -= image
            scaled = residual * scale
            previous, power = power, _dots(residual, scaled)
            turn = ratio(power, previous)
            step *= turn
            step += scaled

    map_items(solve_rows, jobs(weight, weight.shape[2] ** 2))
    return result


def _dots(first: Array, second: Array) -> Array:
    """Returns the product of each row with its like, (groups, rows, 1)."""
    return row_dots(first, second)[..., None]
