"""What quantizing and palettizing share: the rounding sweep on a mask, and its result.

Each solves first for mask and weights by any method, then fits its grid to what is kept, then
rounds column by column, those to come making up for it as in SparseGPT. With SparseGPT as the
method, that last sweep decides the mask again, on rounded columns: both in one sweep. Where inputs
do not correlate, the nearest value on the grid is the best one: there is nothing to make up for.

Source of the rounding: Frantar et al. 2022, "GPTQ", arXiv 2210.17323.
"""

from __future__ import annotations

from mlpass.arrays import host
from mlpass.solvers.factored import factor
from mlpass.solvers.problem import Method, Problem, Pruned
from mlpass.solvers.sparsegpt import SparseGPT, sweep
from mlpass.storage.storage import Grid


def prune_rounded(problem: Problem, method: Method, grid: Grid) -> Pruned:
    """Returns the pruned weight with every kept element on the grid, which is fitted first.

    Args:
        problem: one weight.
        method: that decides the mask.
        grid: of the weight's storage.

    Raises:
        CalibrationError: the Gram is not positive semidefinite.
        NotApplicable: the mode does not fit this weight.
    """
    pruned = method.prune(problem)
    make = grid.fit(pruned.weight, pruned.keep)
    if problem.gram.is_diagonal:
        nearest = grid.nearest(pruned.weight)
        if not host(pruned.keep).all():
            nearest *= host(pruned.keep)
        return Pruned(nearest, pruned.keep)
    sweeper = method if isinstance(method, SparseGPT) else SparseGPT()
    windows = problem.mode.windows(problem.layout, sweeper.block_size)
    factored = factor(problem, windows, sweeper.dampening)
    rounding = make(factored.order)
    if isinstance(method, SparseGPT) and not method.refits(problem, factored):
        weight, keep, power = sweep(problem.target, factored, windows, method.block_size, rounding)
        return Pruned(weight, keep, factored.dampening, power)
    weight, keep, _ = sweep(
        pruned.weight, factored, windows, sweeper.block_size, rounding, pruned.keep
    )
    return Pruned(weight, keep, max(pruned.dampening, factored.dampening))
