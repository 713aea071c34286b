"""What every method is given, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, host, on_host, placed, total
from mlpass.options import check_options
from mlpass.registries import METHODS
from mlpass.solvers.gram import Gram
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode


@dataclass(frozen=True)
class Problem:
    """One weight and the inputs it meets: find W' in the mode's pattern with `(W' - V) X^T` small.

    V, the target, is the weight W itself where no other is given.

    Attributes:
        weight: (groups, rows, columns) fp32, where the Gram is: a numpy array, or a tensor.
        gram: of its inputs, (groups, columns, columns).
        layout: of `weight`: (groups, rows, channels, positions).
        mode: which elements may stay.
        wanted: like `weight`, what the outputs should be those of; None where that is it.
    """

    weight: Array
    gram: Gram
    layout: Layout
    mode: Mode
    wanted: Array | None = None

    @property
    def target(self) -> Array:
        """The weight whose outputs are wanted, like `weight`: by default that itself."""
        return self.weight if self.wanted is None else self.wanted

    @property
    def scale(self) -> Array:
        """Root mean square of each input column, (groups, columns); see `column_scale`."""
        lengths = np.sqrt(host(self.gram.diagonal))
        return placed(column_scale(lengths), self.weight)

    @property
    def hosted(self) -> Problem:
        """The same in numpy's arrays."""
        wanted = None if self.wanted is None else host(self.wanted)
        return replace(self, weight=host(self.weight), gram=self.gram.hosted, wanted=wanted)

    def scaled(self, factors: Array, gram: Gram) -> Problem:
        """Returns the same with its columns multiplied by some factors, on the Gram of those."""
        wanted = None if self.wanted is None else self.wanted * factors
        return replace(self, weight=self.weight * factors, gram=gram, wanted=wanted)


class Pruned(NamedTuple):
    """A method's result.

    Attributes:
        weight: (groups, rows, columns) fp32, zero where `keep` is False.
        keep: the mask, in the same shape.
        dampening: fraction of the mean diagonal that was added to the Gram; 0 where none was.
        power: square sum of the change in outputs, where the method knows it already.
    """

    weight: Array
    keep: Array
    dampening: float = 0.0
    power: float | None = None


class Method:
    """Scores a weight, asks the mode for the mask, and may update what is kept.

    Attributes:
        tensors: whether `prune` works on tensors as well; if not, it is only given numpy's arrays.
    """

    tensors: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)

    def __str__(self) -> str:
        """The name that a report prints."""
        name = METHODS.name_of(self) or type(self).__name__.lower()
        also = (f" + {each}" for each in ("refit", "swaps") if getattr(self, each, False))
        return name + "".join(also)

    def prune(self, problem: Problem) -> Pruned:
        """Returns the pruned weight of a problem.

        Raises:
            NotApplicable: the mode does not fit this weight.
            CalibrationError: the Gram is not positive semidefinite.
        """
        raise NotImplementedError

    @property
    def still(self) -> Method:
        """The method to take where what has no score is to stay zero: this, unless it moves it."""
        return self

    @property
    def updates(self) -> bool:
        """Whether what is kept changes, to make up for what is not."""
        return False

    @property
    def needs_samples(self) -> bool:
        """Whether it depends on the inputs; else it is what weights are pruned by without any."""
        return True

    def rivals(self, problem: Problem) -> tuple[Method, ...]:
        """Returns the methods that it is never worse than, which rounding might turn round."""
        return ()


def pruned_by(method: Method, problem: Problem) -> Pruned:
    """Returns a method's result, of the kind of the problem's weight and where that is.

    Raises:
        NotApplicable: the mode does not fit this weight.
        CalibrationError: the Gram is not positive semidefinite.
    """
    if method.tensors or on_host(problem.weight):
        return method.prune(problem)
    found = method.prune(problem.hosted)
    weight, keep = (placed(each, problem.weight) for each in (found.weight, found.keep))
    return found._replace(weight=weight, keep=keep)


def column_scale(lengths: NDArray[np.floating]) -> NDArray[np.float32]:
    """Returns what to multiply the columns of |w| with: `lengths`, with a root mean square of 1.

    The score so stays in the weight's own unit, for `Threshold`. Columns that no sample reaches
    come after all others, but by magnitude among themselves.

    Args:
        lengths: (groups, columns), 0 or more.
    """
    live = lengths > 0
    if not live.any():
        return np.ones(lengths.shape, np.float32)
    norm = np.sqrt(total(np.square(lengths[live], dtype=np.float64)) / np.count_nonzero(live))
    floor = 1e-6 * lengths[live].min() / norm
    return np.where(live, lengths / norm, floor).astype(np.float32)
