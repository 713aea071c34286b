"""One weight pruned by one method under one mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import CalibrationError
from mlpass.solvers.gram import scaled
from mlpass.solvers.problem import Array, Method, Problem, Pruned
from mlpass.solvers.wanda import Magnitude
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
    """

    weight: NDArray[Any]
    keep: Mask
    error: float
    dampening: float


def solve(
    weight: NDArray[Any],
    gram: NDArray[Any],
    mode: Mode,
    *,
    method: Method,
    layout: Layout | None = None,
) -> Solution:
    """Returns a weight pruned by `method` so that its outputs on the samples change little.

    Args:
        weight: (rows, columns), or whatever shape `layout` is of; any float dtype.
        gram: X^T X, (columns, columns), or (groups, columns, columns) where `layout` has groups.
            The columns of a convolution are its input channels times its kernel positions.
        mode: which elements may stay.
        method: `Magnitude()`, `Wanda()`, `SparseGPT()` or `ADMM()`. Where no sample gives an input,
            it is `Magnitude()` whatever is asked.
        layout: what the axes of `weight` are; None for a plain matrix.

    Raises:
        CalibrationError: shapes do not fit, the Gram or the weight holds NaN or inf, or the Gram is
            not positive semidefinite.
        NotApplicable: the mode does not fit this weight.
    """
    problem = make_problem(weight, gram, mode, layout)
    pruned = usable(problem, method).prune(problem)
    return make_solution(problem, pruned, layout or matrix_layout(*weight.shape), weight.dtype)


def usable(problem: Problem, method: Method) -> Method:
    """Returns the method, or `Magnitude()` where no sample gives an input: no more is known."""
    return method if problem.gram.any() else Magnitude()


def make_solution(
    problem: Problem, pruned: Pruned, layout: Layout, dtype: np.dtype[Any]
) -> Solution:
    """Returns a method's result in the stored shape and dtype, with its error."""
    weight, power = pruned.weight, pruned.power
    limit = np.finfo(dtype).max
    if np.abs(weight).max(initial=0) > limit:  # fp16 would make it inf
        weight, power = np.clip(weight, -limit, limit), None
    whole = output_power(problem.weight, problem.gram)
    if power is None:
        power = output_power(weight - problem.weight, problem.gram)
    return Solution(
        layout.join(weight).astype(dtype, copy=False),
        layout.join(pruned.keep),
        power / whole if whole > 0 else 0.0,
        pruned.dampening,
    )


def make_problem(
    weight: NDArray[Any], gram: NDArray[Any], mode: Mode, layout: Layout | None
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
    grams = gram[None] if gram.ndim == 2 else gram
    if grams.shape != (groups, columns, columns):
        raise CalibrationError(
            f"gram: must be {(groups, columns, columns)} for this weight. Got {grams.shape}."
        )
    if not np.isfinite(weight).all():
        raise CalibrationError("weight: holds NaN or inf.")
    matrix = np.ascontiguousarray(
        used.split(weight).reshape(groups, rows, columns), dtype=np.float32
    )
    return Problem(matrix, scaled(grams), grouped_layout(used), mode)


def output_power(weight: Array, gram: Array) -> float:
    """Returns the square sum of a weight's outputs, `tr(W G W^T)`.

    `W^T W` is symmetric, which halves the work.
    """
    square = np.matmul(weight.swapaxes(1, 2), weight)
    return max(0.0, float(np.einsum("gij,gij->", square, gram, dtype=np.float64)))
