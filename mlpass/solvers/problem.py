"""What every method is given, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.options import check_options
from mlpass.solvers.gram import Gram
from mlpass.solvers.products import Array as Array
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.modes import Mask, Mode
from mlpass.sparsity.tensors import host, is_tensor, placed


@dataclass(frozen=True)
class Problem:
    """One weight and the inputs it meets: find W' in the mode's pattern with `(W' - W) X^T` small.

    Attributes:
        weight: (groups, rows, columns) fp32, where the Gram is: a numpy array, or a tensor.
        gram: of its inputs, (groups, columns, columns).
        layout: of `weight`: (groups, rows, channels, positions).
        mode: which elements may stay.
    """

    weight: Array
    gram: Gram
    layout: Layout
    mode: Mode

    @property
    def scale(self) -> Array:
        """Root mean square of each input column, (groups, columns); see `column_scale`."""
        lengths = np.sqrt(host(self.gram.diagonal))
        return placed(column_scale(lengths), self.weight)  # type: ignore[no-any-return]

    @property
    def hosted(self) -> Problem:
        """The same in numpy's arrays."""
        return replace(self, weight=host(self.weight), gram=self.gram.hosted)


class Pruned(NamedTuple):
    """A method's result.

    Attributes:
        weight: (groups, rows, columns) fp32, zero where `keep` is False.
        keep: the mask, in the same shape.
        dampening: fraction of the mean diagonal that was added to the Gram; 0 where none was.
        power: square sum of the change in outputs, where the method knows it already.
    """

    weight: Array
    keep: Mask
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

    def prune(self, problem: Problem) -> Pruned:
        """Returns the pruned weight of a problem.

        Raises:
            NotApplicable: the mode does not fit this weight.
            CalibrationError: the Gram is none.
        """
        raise NotImplementedError


def pruned_by(method: Method, problem: Problem) -> Pruned:
    """Returns a method's result, of the kind of the problem's weight and where that is.

    Raises:
        NotApplicable: the mode does not fit this weight.
        CalibrationError: the Gram is none.
    """
    if method.tensors or not is_tensor(problem.weight):
        return method.prune(problem)
    found = method.prune(problem.hosted)
    weight, keep = (placed(each, problem.weight) for each in (found.weight, found.keep))
    return found._replace(weight=weight, keep=keep)


def column_scale(lengths: NDArray[Any]) -> Array:
    """Returns what to multiply the columns of |w| with: `lengths`, with a root mean square of 1.

    The score so stays in the weight's own unit, for `Threshold`. Columns that no sample reaches
    come after all others, but by magnitude among themselves.

    Args:
        lengths: (groups, columns), 0 or more.
    """
    live = lengths > 0
    if not live.any():
        return np.ones(lengths.shape, np.float32)
    norm = np.sqrt(np.mean(np.square(lengths[live], dtype=np.float64)))
    floor = 1e-6 * lengths[live].min() / norm
    return np.where(live, lengths / norm, floor).astype(np.float32)
