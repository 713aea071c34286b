"""One weight pruned by one method under one mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import (
    cast_like,
    host,
    in_fp32,
    largest,
    limit_of,
    namespace,
    on_host,
    placed,
    taken,
)
from mlpass.blas import one_blas_thread
from mlpass.errors import CalibrationError
from mlpass.parallel import begin
from mlpass.solvers.gram import Gram, output_power
from mlpass.solvers.problem import Method, Problem, Pruned, pruned_by
from mlpass.solvers.wanda import Magnitude, Uncorrelated, Wanda
from mlpass.sparsity.layout import Layout, grouped_layout, matrix_layout
from mlpass.sparsity.modes import Mode


@dataclass(frozen=True)
class Solution:
    """A pruned weight.

    Attributes:
        weight: in the shape and dtype that came in, and of that kind; 0 where `keep` is False.
        keep: bool, the same shape.
        error: `||(W' - W) X^T||^2 / ||W X^T||^2`; 0 where no sample gives an output.
        dampening: fraction of the Gram's mean diagonal that was added to it.
        error_before: the error of `Magnitude()` in the same mode, what pruning without samples
            would have given; None where it was not asked for.
    """

    weight: NDArray[Any]
    keep: NDArray[np.bool_]
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

    It works where the Gram is: on numpy's arrays, or on torch's tensors on their device (those in
    the host's memory are read as numpy's). numpy's give the same bytes on any number of cores.

    Args:
        weight: (rows, columns), or whatever shape `layout` is of; any float dtype. It is brought to
            the Gram, and the solution back to where it was.
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
    pruned = pruned_by(usable(problem, method), problem)
    used = layout or matrix_layout(*weight.shape)
    return make_solution(problem, pruned, used, weight, powers())


def usable(problem: Problem, method: Method) -> Method:
    """Returns the method, or what it comes to where the Gram tells less.

    That is `Magnitude()` where no sample gives an input, and a ranking where it is diagonal.
    """
    if not host(problem.gram.diagonal).any():
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

    # A device has one queue: nothing is gained there by two threads.
    return begin(work_out) if on_host(problem.weight) else work_out


def make_solution(
    problem: Problem, pruned: Pruned, layout: Layout, stored: NDArray[Any], powers: Powers
) -> Solution:
    """Returns a method's result in the shape, kind and dtype of the stored one, with its error."""
    weight, power = pruned.weight, pruned.power
    limit = limit_of(stored)
    if largest(weight) > limit:  # fp16 would make it inf
        weight, power = namespace(weight).clip(weight, -limit, limit), None
    if power is None:
        power = output_power(weight - problem.weight, problem.gram)

    def relative(power: float) -> float:
        return power / powers.whole if powers.whole > 0 else 0.0

    return Solution(
        cast_like(layout.join(weight), stored),
        placed(layout.join(pruned.keep), stored),
        relative(power),
        pruned.dampening,
        None if powers.magnitude is None else relative(powers.magnitude),
    )


def hosted(
    weight: NDArray[Any], gram: NDArray[Any] | Gram
) -> tuple[NDArray[Any], NDArray[Any] | Gram]:
    """Returns a weight and its Gram in numpy's arrays; a shared Gram is brought to them once."""
    return host(weight), gram.hosted if isinstance(gram, Gram) else host(gram)


Found = TypeVar("Found", bound=Solution)


def placed_like(solution: Found, like: Any) -> Found:
    """Returns a solution of numpy's arrays in those of `like`: its weight in the same dtype."""
    if on_host(like):
        return solution
    arrays = {name: each for name, each in vars(solution).items() if isinstance(each, np.ndarray)}
    found = {name: placed(each, like) for name, each in arrays.items()}
    return replace(solution, **found | {"weight": cast_like(solution.weight, like)})


def make_problem(
    weight: NDArray[Any], gram: NDArray[Any] | Gram, mode: Mode, layout: Layout | None
) -> Problem:
    """Returns the checked problem that `solve` was given.

    Raises:
        CalibrationError: as `solve`.
    """
    if layout is None and weight.ndim != 2:
        raise CalibrationError(
            "weight: must be (rows, columns) where no layout is given. "
            f"Got shape {tuple(weight.shape)}."
        )
    used = layout or matrix_layout(*weight.shape)
    if used.shape != tuple(weight.shape):
        raise CalibrationError(f"weight: has shape {tuple(weight.shape)}, its layout {used.shape}.")
    groups, rows, channels, positions = used.sizes
    columns = channels * positions
    shared = gram if isinstance(gram, Gram) else Gram(gram)
    if tuple(shared.diagonal.shape) != (groups, columns):
        got = tuple(shared.diagonal.shape)
        got = got[1:] if shared.is_diagonal else (*got, got[1])
        raise CalibrationError(
            f"gram: must be {(groups, columns, columns)} for this weight. Got {got}."
        )
    weight = taken(weight)  # type: ignore[assignment]
    xp = namespace(weight)
    if not xp.all(xp.isfinite(weight)):
        raise CalibrationError("weight: holds NaN or inf.")
    there = used.split(placed(weight, shared.diagonal))
    here = namespace(there).reshape(there, (groups, rows, columns))
    return Problem(in_fp32(here), shared, grouped_layout(used), mode)
