"""The methods that rank: by magnitude, and by magnitude times the norm of the inputs."""

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

# Of the mean diagonal: no quiet input gets large weights to stand in for a loud one.
_DAMPENING = 0.01


@dataclass(frozen=True)
class Ranking(Method):
    """Zeroes the lowest scores; kept weights stay as they are, unless that is asked for.

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
    by_row: ClassVar[bool] = False  # whether each row is ranked by itself, where it may

    @property
    def updates(self) -> bool:
        """Only where kept weights are solved for."""
        return self.refit or self.swaps > 0

    def score(self, problem: Problem) -> Array:
        """Returns what to rank by, like the weight: its magnitude."""
        score: Array = namespace(problem.weight).abs(problem.weight)
        return score

    def prune(self, problem: Problem) -> Pruned:
        """Returns the weight with its lowest scores zeroed."""
        mode = problem.mode.per_row() if self.by_row else problem.mode
        keep = keep_mask(mode, self.score(problem), problem.layout)
        weight = masked(problem.weight, keep)
        if self.updates:
            weight = refit(problem, keep, weight, dampening=_DAMPENING)
        return swapped(problem, Pruned(weight, keep), self.swaps, _DAMPENING)


@method("magnitude")
class Magnitude(Ranking):
    """Ranks by |w|; kept weights stay as they are, unless `refit` or `swaps` solve for them."""

    @property
    def needs_samples(self) -> bool:
        """Only where kept weights are solved for."""
        return self.updates


@method("wanda")
class Wanda(Ranking):
    """Ranks by |w| times the norm of the input it meets, each row by itself where it may.

    Source: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models",
    arXiv 2306.11695.
    """

    by_row: ClassVar[bool] = True

    def score(self, problem: Problem) -> Array:
        """Returns the magnitudes times the norms of the inputs."""
        score = super().score(problem)
        score *= problem.scale[:, None, :]
        return score


@dataclass(frozen=True)
class Uncorrelated(Wanda):
    """Ranks by |w| times the norm of the input it meets, the whole weight together.

    That is what every method which weighs outputs comes to where inputs do not correlate: nothing
    can make up for what is gone, so what is kept stays.
    """

    by_row: ClassVar[bool] = False

    def __str__(self) -> str:
        """The name that a report prints."""
        return "wanda over the whole weight"
