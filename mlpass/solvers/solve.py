"""One weight pruned by one method under one mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple

from mlpass.arrays import (
    Array,
    Kind,
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
from mlpass.solvers.rounding import prune_rounded
from mlpass.solvers.settle import ROUNDS
from mlpass.solvers.wanda import Magnitude, Ranking, Uncorrelated
from mlpass.sparsity.layout import Layout, grouped_layout, matrix_layout
from mlpass.sparsity.mode import Mode
from mlpass.storage.plain import rounding_of
from mlpass.storage.storage import Floats, Grid, Storage


@dataclass(frozen=True)
class Solution(Generic[Kind]):
    """A pruned weight.

    Attributes:
        weight: in the shape and dtype that came in, and of that kind; 0 where `keep` is False.
        keep: bool, the same shape.
        error: `||(W' - V) X^T||^2 / ||V X^T||^2`, V being the target, by default W itself; 0 where
            no sample gives an output.
        dampening: fraction of the Gram's mean diagonal that was added to it.
        error_before: the error of `Magnitude()` in the same mode, what pruning without samples
            would have given; None where it was not asked for.
        parts: what stands for the weight in its storage, by name; none where that is plain.
        method: what pruned it, as text.
        reason: why that is not the method that was asked for, or in what its storage is another;
            None where both are as asked.
        shrinkage: share of all that is off the Gram's diagonal that the method did not see.
        error_held: the error on rows that were kept back, of a solve that did not see them; None
            where none were.
        error_before_held: the same of `Magnitude()` in the same mode.
    """

    weight: Kind
    keep: Kind
    error: float
    dampening: float
    error_before: float | None = None
    parts: Mapping[str, Kind] = field(default_factory=dict)
    method: str = ""
    reason: str | None = None
    shrinkage: float = 0.0
    error_held: float | None = None
    error_before_held: float | None = None


@one_blas_thread()
def solve(
    weight: Kind,
    gram: Array | Gram,
    mode: Mode,
    *,
    method: Method,
    storage: Storage | None = None,
    target: Array | None = None,
    layout: Layout | None = None,
    error_before: bool = False,
    shrinkage: float = 0.0,
    rounds: int = ROUNDS,
) -> Solution[Kind]:
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
            it is `Magnitude()`, whatever is asked for; `Solution.method` names what ran.
        storage: how values are to be kept, as `Quantized()` or `Palette()`: they are
            rounded in the same solve, on numpy's arrays. None keeps them as they come.
        target: like `weight`, what the outputs should be those of; None for those of `weight`.
        layout: what the axes of `weight` are; None for a plain matrix.
        error_before: whether the solution has it. It costs about a quarter of SparseGPT's work.
        shrinkage: share of all that is off the Gram's diagonal that the method does not see: of few
            samples, most of it may be chance. Errors are on the Gram as it is.
        rounds: in which a storage's values and codes are settled: each leaves less to the next.

    Raises:
        CalibrationError: shapes do not fit, the Gram or the weight holds NaN or inf, or the Gram is
            not positive semidefinite.
        NotApplicable: the mode or the storage does not fit this weight.
    """
    given: Array = weight
    storage = rounding_of(storage)
    storage = None if storage is not None and storage.exact else storage
    if storage is not None:  # a shared Gram is brought to the host once
        given, gram = host(weight), gram.hosted if isinstance(gram, Gram) else host(gram)
    problem = make_problem(given, gram, mode, layout, target)
    powers = begin_powers(problem, error_before)
    used = layout or matrix_layout(*given.shape)
    chosen, reason = usable(problem, method)
    seen = replace(problem, gram=problem.gram.shrunk(shrinkage)) if shrinkage else problem
    if storage is None:
        pruned = pruned_by(chosen, seen)
    else:
        rounded = storage
        pruned, grid = _least_rounded(
            seen, chosen, lambda power: rounded.grid(used, power, host(given).dtype), rounds
        )
    pruned = pruned._replace(power=None) if shrinkage else pruned  # that is on what it saw
    found = make_solution(problem, pruned, used, weight, powers())
    found = replace(found, method=str(chosen), reason=reason, shrinkage=shrinkage)
    if storage is None:
        return found
    parts = {name: placed(part, weight) for name, part in grid.parts(pruned.keep).items()}
    reasons = [each for each in (reason, storage.note(used)) if each]
    return replace(found, parts=parts, reason="; ".join(reasons) if reasons else None)


def _least_rounded(
    problem: Problem, method: Method, grid_for: Callable[[Floats], Grid], rounds: int
) -> tuple[Pruned, Grid]:
    """Returns a method's result on its grid, or that of a rival which rounding does less harm."""

    def rounded(method: Method) -> tuple[Pruned, Grid]:
        grid = grid_for(host(problem.gram.diagonal))
        pruned = prune_rounded(problem, method, grid, rounds)
        if pruned.power is None:
            pruned = pruned._replace(
                power=output_power(pruned.weight - problem.target, problem.gram)
            )
        return pruned, grid

    best = rounded(method)
    if host(best[0].keep).all():
        return best
    others = [rounded(rival) for rival in method.rivals(problem)]
    return min([best, *others], key=lambda one: one[0].power or 0.0)


def usable(problem: Problem, method: Method) -> tuple[Method, str | None]:
    """Returns the method, or what it comes to where the Gram tells less, and then why.

    That is `Magnitude()` where no sample gives an input, and a ranking where it is diagonal.
    """
    chosen, why = method, ""
    if not host(problem.gram.diagonal).any():
        chosen, why = Magnitude(), "no sample gives it an input"
    elif problem.gram.is_diagonal:
        why = "its inputs do not correlate"
        chosen = replace(method, refit=False) if isinstance(method, Ranking) else Uncorrelated()
    return chosen, None if chosen == method else f"not {method}: {why}"


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
        whole = output_power(problem.target, problem.gram)
        if not magnitude:
            return Powers(whole, None)
        change = Magnitude().prune(problem).weight - problem.target
        return Powers(whole, output_power(change, problem.gram))

    # A device has one queue: nothing is gained there by two threads.
    return begin(work_out) if on_host(problem.weight) else work_out


def make_solution(
    problem: Problem, pruned: Pruned, layout: Layout, stored: Kind, powers: Powers
) -> Solution[Kind]:
    """Returns a method's result in the shape, kind and dtype of the stored one, with its error."""
    weight, power = pruned.weight, pruned.power
    limit = limit_of(stored)
    if largest(weight) > limit:  # fp16 would make it inf
        weight, power = namespace(weight).clip(weight, -limit, limit), None
    if power is None:
        power = output_power(weight - problem.target, problem.gram)

    def relative(power: float) -> float:
        return power / powers.whole if powers.whole > 0 else 0.0

    return Solution(
        cast_like(layout.join(weight), stored),
        placed(layout.join(pruned.keep), stored),
        relative(power),
        pruned.dampening,
        None if powers.magnitude is None else relative(powers.magnitude),
    )


def make_problem(
    weight: Array,
    gram: Array | Gram,
    mode: Mode,
    layout: Layout | None = None,
    target: Array | None = None,
) -> Problem:
    """Returns the checked problem that `solve` was given.

    Raises:
        CalibrationError: as `solve`.
    """
    shape = tuple(weight.shape)
    if layout is None and weight.ndim != 2:
        raise CalibrationError(
            f"weight: must be (rows, columns) where no layout is given. Got shape {shape}."
        )
    used = layout or matrix_layout(*shape)
    if used.shape != shape:
        raise CalibrationError(f"weight: has shape {shape}, its layout {used.shape}.")
    if target is not None and tuple(target.shape) != shape:
        raise CalibrationError(
            f"target: must have the weight's shape, {shape}. Got {tuple(target.shape)}."
        )
    groups, columns = used.sizes[0], used.columns
    shared = gram if isinstance(gram, Gram) else Gram(gram)
    if tuple(shared.diagonal.shape) != (groups, columns):
        got = tuple(shared.diagonal.shape)
        got = got[1:] if shared.is_diagonal else (*got, got[1])
        raise CalibrationError(
            f"gram: must be {(groups, columns, columns)} for this weight. Got {got}."
        )

    def brought(name: str, values: Array) -> Array:
        values = taken(values)
        xp = namespace(values)
        if not xp.all(xp.isfinite(values)):
            raise CalibrationError(f"{name}: holds NaN or inf.")
        return in_fp32(used.matrix(placed(values, shared.diagonal)))

    wanted = None if target is None else brought("target", target)
    return Problem(brought("weight", weight), shared, grouped_layout(used), mode, wanted)
