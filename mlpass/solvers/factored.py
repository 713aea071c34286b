"""A Gram made ready for sweeps over its columns in some order."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import (
    Array,
    diagonals,
    host,
    namespace,
    on_host,
    placed,
    summed,
    triangular_inverse,
    zeros,
)
from mlpass.parallel import map_items
from mlpass.solvers.dampening import dampened_factors
from mlpass.solvers.gram import MANY
from mlpass.solvers.problem import Problem, column_scale
from mlpass.sparsity.mode import Window

_DAMPED = 4  # times what is added to the diagonal: of a column with less left, most is that


@dataclass(frozen=True)
class Factored:
    """A Gram made ready for sweeps.

    Attributes:
        order: of the columns in a sweep.
        upper: (groups, columns, columns) U of the dampened Gram in that order.
        scale: (groups, columns) what |w| is multiplied with to give the score, in that order.
        live: (groups, columns) whether any sample reaches a column, in that order.
        added: (groups,) what was added to the diagonal.
        dampening: the same as a fraction of the mean diagonal, the largest of all groups.
        reaches: what `reach` has returned.
    """

    order: NDArray[np.intp]
    upper: Array
    scale: Array
    live: Array
    added: Array
    dampening: float
    reaches: dict[tuple[int, ...], tuple[Array, list[Array]]] = field(default_factory=dict)

    @property
    def hides(self) -> bool:
        """Whether what was added is most of what is left of many columns that samples reach."""
        own, live = host(diagonals(self.upper)) ** 2, host(self.live)
        hidden = live & (own < _DAMPED * host(self.added)[:, None])
        return bool(np.count_nonzero(hidden) >= MANY * np.count_nonzero(live))

    def reach(self, edges: tuple[int, ...]) -> tuple[Array, list[Array]]:
        """Returns what a sweep through the blocks between `edges` needs.

        The first, (groups, columns, columns), has in each block's columns what the changes of the
        columns before it take from them. The second is each block's own U^-1.
        """
        if edges not in self.reaches:
            xp, blocks = namespace(self.upper), list(pairwise(edges))
            reach = zeros(self.upper, self.upper.shape)

            def invert(block: tuple[int, int]) -> Array:
                start, stop = block
                spread = triangular_inverse(self.upper[:, start:stop, start:stop])
                before = self.upper[:, :start, start:stop]
                xp.matmul(before, spread, out=reach[:, :start, start:stop])
                return spread

            alone = not on_host(self.upper)
            spreads = [*map(invert, blocks)] if alone else map_items(invert, blocks)
            self.reaches[edges] = reach, spreads
        return self.reaches[edges]


def factor(problem: Problem, windows: list[Window], dampening: float) -> Factored:
    """Returns the problem's Gram factored for a sweep through `windows`.

    Raises:
        CalibrationError: the Gram is not positive semidefinite.
    """
    order = np.concatenate([window.columns for window in windows])
    return problem.gram.derived(
        ("factor", dampening, order.tobytes()),
        lambda: _factor(problem.gram.matrix, order, dampening),
    )


def _factor(matrix: Array, order: NDArray[np.intp], dampening: float) -> Factored:
    native = np.array_equal(order, np.arange(order.size))
    places = placed(order, matrix)
    gram = matrix if native else matrix[:, places[:, None], places]
    upper, each = dampened_factors(gram, dampening)
    used, diagonal = np.array(each), host(diagonals(gram))
    live = diagonal > 0
    scale = column_scale(host(diagonals(upper)) * live)
    mean = host(summed(diagonal, (1,), False)) / np.maximum(1, live.sum(axis=1))
    added = (used * mean).astype(np.float32)
    return Factored(
        order,
        upper,
        placed(scale, gram),
        placed(live, gram),
        placed(added, gram),
        float(used.max()),
    )
