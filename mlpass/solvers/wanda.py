"""The methods that only score: by magnitude, and by magnitude times the norm of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlpass.arrays import Array, masked, namespace
from mlpass.options import option
from mlpass.registries import method
from mlpass.solvers.problem import Method, Problem, Pruned
from mlpass.solvers.refit import refit
from mlpass.solvers.swaps import swapped
from mlpass.sparsity.masks import keep_mask
from mlpass.sparsity.mode import Mode

# Of the mean diagonal: no quiet input gets large weights to stand in for a loud one.
_DAMPENING = 0.01


@method("magnitude")
class Magnitude(Method):
    """Ranks by |w|; kept weights stay as they are.

    Args:
        refit: whether kept weights are solved for, once the mask is known.
        swaps: rounds in which kept and pruned weights are swapped where that lowers the error, and
            then refitted. 2 find most of what there is.
    """

    refit: bool = option(default=False, help="solve for the kept weights once the mask is known")
    swaps: int = option(
        default=0, low=0, high=10_000, help="rounds of swaps of kept and pruned weights, refitted"
    )
    tensors: ClassVar[bool] = True

    @property
    def reads_gram(self) -> bool:
        """Only where kept weights are solved for."""
        return self.refit or self.swaps > 0

    def prune(self, problem: Problem) -> Pruned:
        """Returns the weight with its lowest magnitudes zeroed."""
        score = namespace(problem.weight).abs(problem.weight)
        return _prune_by(problem, score, problem.mode, self.refit, self.swaps)


@method("wanda")
class Wanda(Method):
    """Ranks by |w| times the norm of the input it meets, each row by itself where it may.

    Source: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models",
    arXiv 2306.11695.

    Args:
        refit: whether kept weights are solved for, once the mask is known.
        swaps: rounds in which kept and pruned weights are swapped where that lowers the error, and
            then refitted. 2 find most of what there is.
    """

    refit: bool = option(default=False, help="solve for the kept weights once the mask is known")
    swaps: int = option(
        default=0, low=0, high=10_000, help="rounds of swaps of kept and pruned weights, refitted"
    )
    tensors: ClassVar[bool] = True

    def prune(self, problem: Problem) -> Pruned:
        """Returns the weight with its lowest scores zeroed."""
        return _prune_by(problem, _score(problem), problem.mode.per_row(), self.refit, self.swaps)


@dataclass(frozen=True)
class Uncorrelated(Method):
    """Ranks by |w| times the norm of the input it meets, the whole weight together.

    That is what every method which weighs outputs comes to where inputs do not correlate: nothing
    can make up for what is gone, so what is kept stays.
    """

    tensors: ClassVar[bool] = True

    def __str__(self) -> str:
        """The name that a report prints."""
        return "wanda over the whole weight"

    def prune(self, problem: Problem) -> Pruned:
        """Returns the weight with its lowest scores zeroed."""
        return _prune_by(problem, _score(problem), problem.mode, refitted=False, swaps=0)


def _score(problem: Problem) -> Array:
    score: Array = namespace(problem.weight).abs(problem.weight)
    score *= problem.scale[:, None, :]
    return score


def _prune_by(problem: Problem, score: Array, mode: Mode, refitted: bool, swaps: int) -> Pruned:
    keep = keep_mask(mode, score, problem.layout)
    weight = masked(problem.weight, keep)
    if refitted or swaps:
        weight = refit(problem, keep, weight, dampening=_DAMPENING)
    return swapped(problem, Pruned(weight, keep), swaps, _DAMPENING)
