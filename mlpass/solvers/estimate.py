"""What a form would cost a weight, cheaply: each element by itself, and some of the rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, diagonals, host, in_fp32, on_host, placed, row_dots, total
from mlpass.solvers.dampening import dampened_factors
from mlpass.solvers.gram import Gram
from mlpass.solvers.solve import make_problem
from mlpass.solvers.wanda import Uncorrelated
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode
from mlpass.storage.storage import Storage, begin_fit

_RUN = 8  # rows that follow each other: those of a table, as most palettes have them
_FEWEST = 8  # runs
_ENOUGH = 1 << 17  # elements
_DAMPENING = 0.01  # as SparseGPT has it


class Excerpt(NamedTuple):
    """Some rows of a weight, or all of them.

    Attributes:
        weight: in the shape of `layout`.
        layout: of the rows.
        counts: (groups, rows), for how many of the weight's rows each stands.
        whole: square sum of the outputs of all rows.
        picked: their numbers; None for all of them.
    """

    weight: NDArray[np.generic]
    layout: Layout
    counts: NDArray[np.float64]
    whole: float
    picked: NDArray[np.intp] | None = None

    def like(self, other: NDArray[np.generic], layout: Layout) -> NDArray[np.generic]:
        """Returns the same rows of another weight of the whole one's `layout`."""
        return other if self.picked is None else layout.split(other)[0][self.picked]

    def error(self, other: Array, gram: Gram) -> float:
        """Returns the relative output error of the whole weight, from that of these rows.

        Args:
            other: in the place of `weight`: in its shape, or as (groups, rows, columns).
            gram: of the inputs.
        """
        if self.whole <= 0:
            return 0.0
        before = placed(_matrix(self.weight, self.layout), other)
        changed = _matrix(other, self.layout) - before
        return float(np.vdot(_row_powers(changed, gram), self.counts)) / self.whole


def excerpt(
    weight: NDArray[np.generic],
    coarse: NDArray[np.generic] | None,
    layout: Layout,
    gram: Gram,
    fewest: int = _FEWEST,
    enough: int = _ENOUGH,
) -> Excerpt:
    """Returns runs of rows, evenly spaced, of a weight that is large; else all of it.

    Rows are solved for on one Gram each by itself, so some tell what all would. The loudest run is
    among them and stands for itself alone: it may make most of the outputs, and sets the table that
    all rows share. The others stand for the rest, by what both lose to one coarse rounding: as a
    solve leaves it if that can be had, which has little to do with what plain rounding does. Where
    few rows outweigh all, a table that all share has fewer others to serve here, and costs more.

    Args:
        weight: in the shape of `layout`.
        coarse: the same, rounded coarsely, each row or run by itself; None where rows are to stand
            for others by what their outputs are.
        layout: of the weight.
        gram: of its inputs.
        fewest: runs of a large weight.
        enough: elements, from which on there are no more runs than that.
    """
    groups, rows = layout.sizes[:2]
    matrix = _matrix(weight, layout)
    powers = _row_powers(matrix, gram)
    whole = total(powers)
    count = max(fewest, enough // max(1, layout.columns * _RUN))
    if groups > 1 or rows <= count * _RUN:
        return Excerpt(weight, layout, np.ones((groups, rows)), whole)
    lost = powers[0]
    if coarse is not None:
        lost = _row_powers(_matrix(coarse, layout) - matrix, gram)[0]
    loudest = min(int(lost.argmax()) // _RUN * _RUN, rows - _RUN)
    starts = np.linspace(0, rows - _RUN, count).astype(np.intp)
    starts[np.abs(starts - loudest).argmin()] = loudest
    picked = (starts[:, None] + np.arange(_RUN)).reshape(-1)
    itself = np.repeat(starts == loudest, _RUN)
    own, rest = total(lost[picked][~itself]), total(lost) - total(lost[picked][itself])
    counts = np.where(itself, 1.0, rest / own if own > 0 else rows / len(picked))
    some = layout.split(weight)[0][picked]
    used = Layout(some.shape, some.shape, ((), (0,), (1,), (2,)))
    return Excerpt(some, used, counts[None], whole, picked)


class Estimate(NamedTuple):
    """What the outputs of a weight would lose, as a share of their square sum.

    Attributes:
        error: where other columns make up for what one loses, as in a sweep over the columns that
            brings the largest inputs first.
        alone: where nothing does: fitted to no inputs.
    """

    error: float
    alone: float


def estimated(rows: Excerpt, gram: Gram, mode: Mode, storage: Storage | None) -> Estimate:
    """Returns the relative output error of a form whose elements are each decided by itself.

    What goes has the least magnitude times what is left of its input, what stays the nearest value
    of the storage.

    Args:
        rows: of a weight.
        gram: of its inputs.
        mode: which elements may stay.
        storage: None where values are kept as they come.

    Raises:
        NotApplicable: the mode does not fit this weight.
        CalibrationError: the Gram is not positive semidefinite.
    """
    hosted = gram.hosted
    damped = own = hosted
    if not gram.is_diagonal:
        damped, own = hosted.derived("left", lambda: _left(hosted))
    problem = make_problem(rows.weight, damped, mode, rows.layout)
    pruned = Uncorrelated().prune(problem)
    found = pruned.weight
    if storage is not None:
        grid = storage.grid(rows.layout, host(problem.gram.diagonal), rows.weight.dtype)
        if gram.is_diagonal:
            grid.fit(found, pruned.keep)
        else:
            begin_fit(grid, found, pruned.keep)
        found = grid.nearest(found) * pruned.keep
    alone = rows.error(host(found), hosted)
    if gram.is_diagonal:
        return Estimate(alone, alone)
    return Estimate(own.unit * rows.error(host(found), own), alone)


def _left(gram: Gram) -> tuple[Gram, Gram]:
    """Returns the Grams of what the columns after each, in falling order, do not tell of it.

    The first is of a dampened Gram, as a solve takes it to be; the second without what that adds.
    """
    powers = host(gram.diagonal)
    order = np.argsort(-powers.sum(axis=0), kind="stable")
    upper, used = dampened_factors(gram.matrix[:, order[:, None], order], _DAMPENING)
    means = powers.sum(axis=1) / np.maximum(1, np.count_nonzero(powers, axis=1))
    added = (np.array(used) * means)[:, None]
    left = np.zeros_like(powers)
    left[:, order] = host(diagonals(upper)) ** 2
    left[powers == 0] = 0
    return diagonal_gram(left), diagonal_gram(np.maximum(left - added, 0))


def diagonal_gram(powers: NDArray[np.floating]) -> Gram:
    """Returns the diagonal Gram of a diagonal, (groups, columns)."""
    if len(powers) == 1:
        return Gram(powers[0])
    return Gram(powers[:, :, None] * np.eye(powers.shape[1], dtype=np.float32))


def relative_error(
    weight: NDArray[np.generic], other: NDArray[np.generic], gram: Gram, layout: Layout
) -> float:
    """Returns the relative error of the outputs of another weight.

    Args:
        weight: in the shape of `layout`.
        other: in its place.
        gram: of its inputs.
        layout: of the weight.
    """
    matrix = _matrix(weight, layout)
    whole = total(_row_powers(matrix, gram))
    changed = total(_row_powers(_matrix(other, layout) - matrix, gram))
    return changed / whole if whole > 0 else 0.0


def _matrix(weight: Array, layout: Layout) -> Array:
    is_matrix = tuple(weight.shape) == (*layout.sizes[:2], layout.columns)
    return in_fp32(weight if is_matrix else layout.matrix(weight))


def _row_powers(matrix: Array, gram: Gram) -> NDArray[np.float64]:
    """Returns the square sum of the outputs of each row, (groups, rows), worked out at the Gram."""
    if gram.is_diagonal:
        rows = host(matrix)
        powers = np.einsum("grc,grc,gc->gr", rows, rows, host(gram.diagonal))
    elif on_host(gram.diagonal):
        rows = host(matrix)
        powers = np.einsum("grc,grc->gr", rows @ host(gram.matrix), rows)
    else:
        there = placed(matrix, gram.diagonal)
        powers = host(row_dots(there @ gram.matrix, there))
    found: NDArray[np.float64] = np.maximum(powers, 0).astype(np.float64)
    return found
