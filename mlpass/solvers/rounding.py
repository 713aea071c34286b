"""What quantizing and palettizing share: the rounding sweep on a mask, and its result.

Each solves first for mask and weights by any method, then fits its grid to what is kept, then
rounds column by column, those to come making up for it as in SparseGPT, then settles the grid's
values and the codes. With SparseGPT as the method, that sweep decides the mask again, on rounded
columns: both in one sweep. Where inputs do not correlate, there is nothing to make up for, and the
nearest value of the grid is the best one.

Source of the rounding: Frantar et al. 2022, "GPTQ", arXiv 2210.17323.
"""

from __future__ import annotations

import numpy as np

from mlpass.arrays import host
from mlpass.solvers.factored import factor
from mlpass.solvers.problem import Method, Problem, Pruned
from mlpass.solvers.settle import ROUNDS, settle
from mlpass.solvers.sparsegpt import SparseGPT, sweep
from mlpass.sparsity.modes import Percentile
from mlpass.storage.outliers import Divided
from mlpass.storage.storage import Grid, begin_fit

# Dampening where samples are fewer than columns: held-out errors were least with it, at a sixteenth
# to two thirds as many samples as columns.
_SHORT = 0.3
_ALL = Percentile(0.0)


def prune_rounded(problem: Problem, method: Method, grid: Grid, rounds: int = ROUNDS) -> Pruned:
    """Returns the pruned weight with every kept element on the grid, which is fitted first.

    Args:
        problem: one weight.
        method: that decides the mask.
        grid: of the weight's storage.
        rounds: as of `settle`.

    Raises:
        CalibrationError: the Gram is not positive semidefinite.
        NotApplicable: the mode does not fit this weight.
    """
    pruned = _pruned(problem, method)
    if problem.gram.is_diagonal:
        grid.fit(pruned.weight, pruned.keep)
        nearest = grid.nearest(pruned.weight)
        if not host(pruned.keep).all():
            nearest *= host(pruned.keep)
        return Pruned(nearest, pruned.keep)
    make = begin_fit(grid, pruned.weight, pruned.keep)
    sweeper = method if isinstance(method, SparseGPT) else SparseGPT()
    windows = problem.mode.windows(problem.layout, sweeper.block_size)
    factored = factor(problem, windows, sweeper.dampening)
    rounding = make(factored.order)
    short = factored.hides and problem.gram.is_short
    divided = isinstance(grid, Divided)  # its outliers were chosen of what is kept
    if isinstance(method, SparseGPT) and not (method.refit or method.swaps or short or divided):
        start, fixed, used = problem.target, None, factored.dampening
    else:
        start, fixed = pruned.weight, pruned.keep
        used = max(pruned.dampening, factored.dampening)
    weight, keep, _ = sweep(start, factored, windows, sweeper.block_size, rounding, fixed)
    settled = settle(problem, grid, weight, keep, max(used, _SHORT) if short else used, rounds)
    return Pruned(settled, keep, used)


def _pruned(problem: Problem, method: Method) -> Pruned:
    """Returns a method's result before anything is rounded: where nothing is to go, the target."""
    if problem.mode == _ALL and not problem.gram.is_diagonal:
        return Pruned(problem.target, np.ones(problem.target.shape, bool))
    return method.prune(problem)
