"""ADMM: weight and mask are solved for together, on all columns at once.

Sources: Boža 2024, "Fast and Effective Weight Update for Pruned Large Language Models", arXiv
2401.02938 (the splitting); Meng et al. 2024, "ALPS", arXiv 2406.07831 (a penalty that grows by how
much the mask still changes, and conjugate gradients on the mask in the end).

The weight is split in X, free, and Z, in the mode's pattern, with the running disagreement Y
between them:

    X <- argmin ||(X - W) G^(1/2)||^2 + p ||X - Z + Y||^2 = W + p (Z - Y - W) (G + p I)^-1
    Z <- the mode's own projection of X + Y
    Y <- Y + X - Z

What is ours: columns are divided by what the others do not tell of them, the root of their
conditional variance, where the sources scale them to unit norm. Going without a weight costs what
the others cannot make up for, so that is what the projection should compare. All columns then have
one conditional variance, the harmonic mean of the Gram's spectrum, whatever that is, and the
penalty begins at that: the mask moves freely there. It grows fast while much of the mask changes,
slowly while it settles, and ends once nothing changes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

from mlpass.arrays import Array, copied, host, namespace, placed
from mlpass.options import option
from mlpass.parallel import map_items
from mlpass.registries import method
from mlpass.solvers.gram import output_power
from mlpass.solvers.problem import Method, Problem, Pruned, column_scale
from mlpass.solvers.products import Part, jobs
from mlpass.solvers.refit import refit
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Magnitude
from mlpass.sparsity.masks import keep_mask

_PENALTIES = 5  # at most; each has its share of the iterations
# How often the penalty grows by a tenth, where more than such a share of the mask has changed.
_GROWTH, _STEPS = 1.1, ((0.15, 6), (0.1, 4), (0.01, 3), (0.0, 2))
_ROWS = 32  # of a group, which tell what to expect of all
_DOUBT = 1.5  # times the error found, above which another's on these is not looked into


@method("admm")
class ADMM(Method):
    """Searches mask and weights together, at less than half of SparseGPT's error.

    Args:
        iterations: products with the inverse at most, 1 or more. More take more time, for a
            little less error; it ends before where the mask has settled.
        finish: conjugate-gradient steps on the final mask, 0 or more.
        penalty: of the disagreement in the beginning, in units of the columns' conditional
            variance, above 0.
        dampening: fraction of the Gram's diagonal that is added to it, which keeps few samples
            from being fitted too closely.
    """

    iterations: int = option(
        default=24, low=1, high=10_000, help="products with the inverse at most"
    )
    finish: int = option(default=4, low=0, high=10_000, help="conjugate-gradient steps on the mask")
    penalty: float = option(
        default=1.0, above=0, help="of mask and weights that differ, in the beginning"
    )
    dampening: float = option(
        default=0.01, low=0, high=1, help="fraction of a Gram's mean diagonal that is added to it"
    )
    tensors: ClassVar[bool] = True

    @property
    def updates(self) -> bool:
        """Always."""
        return True

    def prune(self, problem: Problem) -> Pruned:
        """Returns the pruned weight, solved for on its mask."""
        lengths, gram = problem.gram.conditional(self.dampening)
        scale = placed(column_scale(host(lengths)), problem.weight)[:, None, :]
        scaled = problem.scaled(scale, gram)
        split, keep, dampening = self._search(scaled)
        if self.finish:
            split = refit(scaled, keep, split, self.finish, dampening)
        return self._checked(problem, Pruned(split / scale, keep, dampening))

    @property
    def still(self) -> Method:
        """SparseGPT with refit: the search here gives zeros other places."""
        return SparseGPT(self.dampening, refit=True)

    def rivals(self, problem: Problem) -> tuple[Method, ...]:
        """Returns SparseGPT with refit, where it leaves as many zeros."""
        return () if problem.mode.target is None else (SparseGPT(self.dampening, refit=True),)

    def _checked(self, problem: Problem, found: Pruned) -> Pruned:
        """Returns what the search found, or what a simpler method's mask gives where that is less.

        The search may go astray: where whole rows are to go, or a Gram is close to singular.
        """
        power = output_power(found.weight - problem.target, problem.gram)
        best = found._replace(power=power)
        if problem.mode.target is None:  # each method leaves another number of zeros
            return best
        swept, _ = SparseGPT(self.dampening).swept(problem)
        for other in (swept, Magnitude().prune(problem)):
            other = other._replace(dampening=max(self.dampening, other.dampening))
            if _may_be_better(problem, other, best):
                weight, lower = _refitted(problem, other)
                if lower < power:
                    power = lower
                    best = other._replace(weight=weight, power=power)
        return best

    def _search(self, problem: Problem) -> tuple[Array, Array, float]:
        """Returns Z after all iterations, its mask, and the dampening that the Gram took."""
        target = problem.target
        total: Array = copied(target)  # X + Y, of which Z is the projection
        split, keep = _project(problem, total)
        penalty, dampening = self.penalty / problem.gram.unit, 0.0
        each = -(-self.iterations // _PENALTIES)
        for left in range(self.iterations, 0, -each):
            solver, used = problem.gram.inverse(self.dampening, penalty)
            dampening = max(dampening, used)
            before = keep
            for _ in range(min(each, left)):
                _free(total, split, target, solver, penalty)
                split, keep = _project(problem, total)
            growth = _growth(before, keep)
            if growth == 1:
                break
            penalty *= growth
            total -= split  # Y is in units of 1 / penalty
            total *= 1 / growth
            total += split
        return split, keep, dampening


def _growth(before: Array, keep: Array) -> float:
    """Returns what the penalty is multiplied with, by what share of a mask has changed.

    That is 1 where it has settled.
    """
    changed = int(namespace(keep).count_nonzero(before != keep)) / math.prod(keep.shape)
    return next((_GROWTH**steps for share, steps in _STEPS if changed > share), 1.0)


def _may_be_better(problem: Problem, other: Pruned, best: Pruned) -> bool:
    """Returns whether another result may be the better one once it is refitted, by some rows."""
    some = slice(None, None, max(1, problem.weight.shape[1] // _ROWS))
    wanted = None if problem.wanted is None else problem.wanted[:, some]
    part = replace(problem, weight=problem.weight[:, some], wanted=wanted)
    power = output_power(best.weight[:, some] - part.target, part.gram)
    other = other._replace(weight=other.weight[:, some], keep=other.keep[:, some])
    return _refitted(part, other)[1] <= _DOUBT * power


def _refitted(problem: Problem, pruned: Pruned) -> tuple[Array, float]:
    """Returns a result's weight refitted on its mask, and the square sum of its change."""
    weight = refit(problem, pruned.keep, pruned.weight, dampening=pruned.dampening)
    return weight, output_power(weight - problem.target, problem.gram)


def _free(total: Array, split: Array, target: Array, solver: Array, penalty: float) -> None:
    """Adds X - Z to `total`, in place."""

    def solve(part: Part) -> None:
        pull: Array = 2 * split[part]
        pull -= total[part]
        pull -= target[part]
        pull = pull @ solver[part[0]]
        pull *= penalty
        pull += target[part]
        pull -= split[part]
        total[part] += pull

    map_items(solve, jobs(total, total.shape[2] ** 2))


def _project(problem: Problem, total: Array) -> tuple[Array, Array]:
    """Returns the nearest weight in the mode's pattern, and its mask."""
    keep = keep_mask(problem.mode, namespace(total).abs(total), problem.layout)
    return total * keep, keep
