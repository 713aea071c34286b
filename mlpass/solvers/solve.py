"""One weight pruned by one method under one mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import CalibrationError
from mlpass.parallel import begin, one_blas_thread
from mlpass.solvers.gram import Gram, output_power
from mlpass.solvers.problem import Method, Problem, Pruned
from mlpass.solvers.wanda import Magnitude, Uncorrelated, Wanda
from mlpass.sparsity.layout import Layout, grouped_layout, matrix_layout
from mlpass.sparsity.modes import Mask, Mode


@dataclass(frozen=True)
class Solution:
    """A pruned weight.

    Attributes:
        weight: in the shape and dtype that came in; 0 where `keep` is False.
        keep: bool, the same shape.
        error: `||(W' - W) X^T||^2 / ||W X^T||^2`; 0 where no sample gives an output.
        dampening: fraction of the Gram's mean diagonal that was added to it.
        error_before: the error of `Magnitude()` in the same mode, what pruning without samples
            would have given; None where it was not asked for.
    """

    weight: NDArray[Any]
    keep: Mask
    error: float
    dampening: float
    error_before: float | None = None


@one_blas_thread()
def solve(
    weight: NDArray[Any],
    gram: NDArray[Any] | Gram,
    mode: Mode,
    *,
    method: Method,
    layout: Layout | None = None,
    error_before: bool = False,
) -> Solution:
    """Returns a weight pruned by `method` so that its outputs on the samples change little.

    The same weight and Gram give the same bytes on any number of cores.

    Args:
        weight: (rows, columns), or whatever shape `layout` is of; any float dtype.
        gram: X^T X, (columns, columns), or (groups, columns, columns) where `layout` has groups.
            The columns of a convolution are its input channels times its kernel positions.
            (columns,) is a diagonal one: every method then ranks by |w| times input norm, and kept
            weights stay. A `Gram` is for several weights that read one activation: what depends on
            it alone is worked out once, with the same result.
        mode: which elements may stay.
        method: `Magnitude()`, `Wanda()`, `SparseGPT()` or `ADMM()`. Where no sample gives an input,
            it is `Magnitude()` whatever is asked.
        layout: what the axes of `weight` are; None for a plain matrix.
        error_before: whether the solution has it. It costs about a quarter of SparseGPT's work.

    Raises:
        CalibrationError: shapes do not fit, the Gram or the weight holds NaN or inf, or the Gram is
            not positive semidefinite.
        NotApplicable: the mode does not fit this weight.
    """
    problem = make_problem(weight, gram, mode, layout)
    powers = begin_powers(problem, error_before)
    pruned = usable(problem, method).prune(problem)
    used = layout or matrix_layout(*weight.shape)
    return make_solution(problem, pruned, used, weight.dtype, powers())


def usable(problem: Problem, method: Method) -> Method:
    """Returns the method, or what it comes to where the Gram tells less.

    That is `Magnitude()` where no sample gives an input, and a ranking where it is diagonal.
    """
    if not problem.gram.diagonal.any():
        return Magnitude()
    if problem.gram.is_diagonal and not isinstance(method, Magnitude | Wanda):
        return Uncorrelated()
    return method


class Powers(NamedTuple):
    """Square sums of outputs, in units of the scaled Gram.

    Attributes:
        whole: of the weight as it came.
        magnitude: of what `Magnitude()` would change; None where it was not asked for.
    """

    whole: float
    magnitude: float | None


def begin_powers(problem: Problem, magnitude: bool) -> Callable[[], Powers]:
    """Returns what waits for the powers of a problem, worked out beside the method."""

    def work_out() -> Powers:
        whole = output_power(problem.weight, problem.gram)
        if not magnitude:
            return Powers(whole, None)
        change = Magnitude().prune(problem).weight - problem.weight
        return Powers(whole, output_power(change, problem.gram))

    return begin(work_out)


def make_solution(
    problem: Problem, pruned: Pruned, layout: Layout, dtype: np.dtype[Any], powers: Powers
) -> Solution:
    """Returns a method's result in the stored shape and dtype, with its error."""
    weight, power = pruned.weight, pruned.power
    limit = np.finfo(dtype).max
    if np.abs(weight).max(initial=0) > limit:  # fp16 would make it inf
        weight, power = np.clip(weight, -limit, limit), None
    if power is None:
        power = output_power(weight - problem.weight, problem.gram)

    def relative(power: float) -> float:
        return power / powers.whole if powers.whole > 0 else 0.0

    return Solution(
        layout.join(weight).astype(dtype, copy=False),
        layout.join(pruned.keep),
        relative(power),
        pruned.dampening,
        None if powers.magnitude is None else relative(powers.magnitude),
    )


def make_problem(
    weight: NDArray[Any], gram: NDArray[Any] | Gram, mode: Mode, layout: Layout | None
) -> Problem:
    """Returns the checked problem that `solve` was given.

    Raises:
        CalibrationError: as `solve`.
    """
    if layout is None and weight.ndim != 2:
        raise CalibrationError(
            f"weight: must be (rows, columns) where no layout is given. Got shape {weight.shape}."
        )
    used = layout or matrix_layout(*weight.shape)
    if used.shape != weight.shape:
        raise CalibrationError(f"weight: has shape {weight.shape}, its layout {used.shape}.")
    groups, rows, channels, positions = used.sizes
    columns = channels * positions
    shared = gram if isinstance(gram, Gram) else Gram(gram)
    if shared.diagonal.shape != (groups, columns):
        got = shared.diagonal.shape
        got = got[1:] if shared.is_diagonal else (*got, got[1])
        raise CalibrationError(
            f"gram: must be {(groups, columns, columns)} for this weight. Got {got}."
        )
    if not np.isfinite(weight).all():
        raise CalibrationError("weight: holds NaN or inf.")
    matrix = np.ascontiguousarray(
        used.split(weight).reshape(groups, rows, columns), dtype=np.float32
    )
    return Problem(matrix, shared, grouped_layout(used), mode)
