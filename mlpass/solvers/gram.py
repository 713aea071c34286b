"""The Gram as methods read it: checked, scaled, dampened, factored; each of it done once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import CalibrationError
from mlpass.parallel import map_items
from mlpass.solvers.accumulate import GramSum as GramSum
from mlpass.solvers.accumulate import accumulate as accumulate
from mlpass.solvers.arrays import copied, diagonals, namespace, ratio, tensor_form, total
from mlpass.solvers.factor import factor_in_place, inverse
from mlpass.solvers.products import Array, pairs, row_parts
from mlpass.sparsity.tensors import host, placed, taken

Derived = TypeVar("Derived")

# Of a column's own power: what is added to tell whether the others tell all of it, and what is then
# left at most; and the share of such columns that samples have to be short for.
_FAINT, _TOLD, _MANY = 1e-5, 1e-4, 0.05


class Gram:
    """X^T X of one activation, and whatever methods derive from it alone.

    Sites that read one activation share one of these, so that the second and third do not factor it
    again. What was derived is kept as long as the object is.

    Attributes:
        diagonal: (groups, columns) fp32, with a mean of 1 over its live elements.
        is_diagonal: whether there is nothing else, and so no `matrix`.
    """

    def __init__(self, gram: NDArray[Any]) -> None:
        """Checks and scales a Gram: a numpy array, or a tensor, on whose device all is worked out.

        Args:
            gram: (columns, columns), or (groups, columns, columns), or (columns,) where it is
                diagonal: inputs that do not correlate, like the one-hot rows that an embedding
                table meets.

        Raises:
            CalibrationError: its shape is another, or it holds NaN or inf, or a negative diagonal.
        """
        gram = taken(gram)
        self.is_diagonal = gram.ndim == 1
        grams = gram[None] if gram.ndim <= 2 else gram
        if not self.is_diagonal and (grams.ndim != 3 or grams.shape[1] != grams.shape[2]):
            raise CalibrationError(
                "gram: must be (columns, columns), (groups, columns, columns) or, where it is "
                f"diagonal, (columns,). Got shape {tuple(gram.shape)}."
            )
        self._matrix = scaled(grams)
        diagonal = diagonals(self._matrix) if grams.ndim == 3 else self._matrix
        self.diagonal: Array = copied(diagonal)
        self._derived: dict[Hashable, Any] = {}

    @property
    def matrix(self) -> Array:
        """The Gram scaled like `diagonal`, (groups, columns, columns) fp32.

        Raises:
            CalibrationError: it is diagonal.
        """
        if self.is_diagonal:
            raise CalibrationError("gram: is diagonal, so it has no matrix.")
        return self._matrix

    @property
    def means(self) -> Array:
        """The mean live diagonal of each group, (groups,) fp32; 1 where no sample reaches it.

        A single group has 1, to which the Gram is scaled.
        """
        return self.derived("means", self._means)

    def _means(self) -> Array:
        diagonal = host(self.diagonal)
        means = diagonal.sum(axis=1) / np.maximum(1, np.count_nonzero(diagonal, axis=1))
        if len(means) == 1:
            means[:] = 1
        found: Array = placed(np.where(means > 0, means, 1).astype(np.float32), self.diagonal)
        return found

    @property
    def hosted(self) -> Gram:
        """The Gram in numpy's arrays: itself where it is."""
        if tensor_form(self._matrix) is None:
            return self
        matrix = self._matrix[0] if self.is_diagonal else self._matrix
        return self.derived("hosted", lambda: Gram(host(matrix)))

    def derived(self, key: Hashable, make: Callable[[], Derived]) -> Derived:
        """Returns what `make` returned when `key` was first asked for."""
        if key not in self._derived:
            self._derived[key] = make()
        return cast(Derived, self._derived[key])

    def conditional(self, dampening: float) -> tuple[Array, Gram]:
        """Returns what the others do not tell of each column, and the Gram of columns over it.

        The first, (groups, columns), is the root of the column's conditional variance: of 1 over
        the diagonal of the inverse. Columns that no sample reaches have 0, in the Gram as well.

        Args:
            dampening: of the Gram, in units of each column's own power.

        Raises:
            CalibrationError: it is not positive semidefinite.
        """

        def make() -> tuple[Array, Gram]:
            root = namespace(self.diagonal).sqrt
            unit = self._divided(root(self.diagonal))
            solver, _ = unit._inverse(dampening, 0.0)
            spread = root(self.diagonal) * root(ratio(1, diagonals(solver)))
            return spread, self._divided(spread)

        return self.derived(("conditional", dampening), make)

    @property
    def is_short(self) -> bool:
        """Whether of many columns the others tell all, as with fewer samples than columns."""
        return self.derived("is_short", self._is_short)

    def _is_short(self) -> bool:
        unit = self._divided(namespace(self.diagonal).sqrt(self.diagonal))
        try:
            if form := tensor_form(unit.matrix):
                uppers, _ = form.dampened_factors(unit.matrix, _FAINT)
            else:
                uppers = np.stack([dampened_factor(group, _FAINT)[0] for group in unit.matrix])
        except CalibrationError:  # of columns so quiet that rounding outweighs what they tell
            return False
        own = host(diagonals(uppers)) ** 2
        live = host(self.diagonal) > 0
        return bool(np.count_nonzero(live & (own < _TOLD)) >= _MANY * np.count_nonzero(live))

    def inverse(self, dampening: float, penalty: float) -> tuple[Array, float]:
        """Returns `(G + (dampening * mean + penalty) I)^-1` of each group, and its dampening.

        Args:
            dampening: fraction of a group's mean live diagonal; raised where that is not enough.
            penalty: the same number for all groups, however loud they are.

        Raises:
            CalibrationError: it is not positive semidefinite.
        """
        key = ("inverse", dampening, penalty)
        return self.derived(key, lambda: self._inverse(dampening, penalty))

    def _inverse(self, dampening: float, penalty: float) -> tuple[Array, float]:
        extra = [penalty / mean for mean in host(self.means).tolist()]
        shares = [dampening + each for each in extra]
        if form := tensor_form(self.matrix):
            uppers, taken = form.dampened_factors(self.matrix, shares)
            solver: Array = form.inverses(uppers)
        else:
            parts = [dampened_factor(*each) for each in zip(self.matrix, shares, strict=True)]
            solver, taken = np.stack([inverse(upper) for upper, _ in parts]), [u for _, u in parts]
        return solver, max(used - each for used, each in zip(taken, extra, strict=True))

    def _divided(self, lengths: Array) -> Gram:
        """Returns the Gram of columns divided by some lengths; those of length 0 stay 0."""
        factors = ratio(1, lengths)
        return Gram(self.matrix * factors[:, :, None] * factors[:, None, :])


def output_power(weight: Array, gram: Gram) -> float:
    """Returns the square sum of a weight's outputs, `tr(W G W^T)`, in units of the scaled Gram.

    Both `W^T W` and the Gram are symmetric, which halves the work.

    Args:
        weight: (groups, rows, columns).
        gram: of the same groups and columns.
    """
    groups, rows, columns = weight.shape
    if gram.is_diagonal:
        squares = namespace(weight).einsum("grc,grc->gc", weight, weight)
        return float(np.vdot(host(squares).astype(np.float64), host(gram.diagonal)))
    if tensor_form(weight):
        return max(0.0, total((weight.swapaxes(1, 2) @ weight) * gram.matrix))

    def multiply(pair: tuple[slice, slice, slice]) -> float:
        part, left, right = pair
        square = np.matmul(weight[part, :, left].swapaxes(1, 2), weight[part, :, right])
        sums = np.einsum("gij,gij->gi", square, gram.matrix[pair])
        return float(sums.sum(dtype=np.float64)) * (1 if left == right else 2)

    return max(0.0, sum(map_items(multiply, pairs(groups, columns, rows))))


def scaled(gram: NDArray[Any]) -> Array:
    """Returns the Gram in fp32, divided by the mean of its live diagonal over all groups.

    Args:
        gram: (groups, columns, columns), or (groups, columns) where it is diagonal.

    Raises:
        CalibrationError: it holds NaN or inf, or a negative diagonal.
    """
    if form := tensor_form(gram):
        return form.scaled(gram)  # type: ignore[no-any-return]
    diagonal = np.einsum("gii->gi", gram) if gram.ndim == 3 else gram
    parts = row_parts(gram.shape[0], gram.shape[1], gram.shape[-1])
    if not all(map_items(lambda part: bool(np.isfinite(gram[part]).all()), parts)):
        raise CalibrationError("gram: holds NaN or inf.")
    if diagonal.min(initial=0.0) < 0:
        raise CalibrationError("gram: has a negative diagonal, so it is no X^T X.")
    power = float(np.sum(diagonal, dtype=np.float64))
    mean = power / np.count_nonzero(diagonal) if power else 1.0
    narrow = gram.dtype == np.float32 and 1e-30 < mean < 1e30
    factor = np.float32(1 / mean) if narrow else 1 / mean
    result: Array = np.empty(gram.shape, np.float32)

    def scale(part: Any) -> None:
        np.multiply(gram[part], factor, out=result[part], casting="same_kind")

    map_items(scale, parts)
    return result


def dampened_factor(gram: Array, dampening: float) -> tuple[Array, float]:
    """Returns U of `U U^T = gram + dampening * mean * I`, and the dampening that it took.

    It is worked out in fp64. Where that fails ten times the dampening is tried, up to 1. A column
    that no sample reaches gets the mean on the diagonal: it is then tied to no other.

    Args:
        gram: (columns, columns).
        dampening: fraction of its mean live diagonal, 0 or more.

    Raises:
        CalibrationError: it is not positive semidefinite.
    """
    diagonal = np.einsum("ii->i", gram)
    mean = diagonal.sum(dtype=np.float64) / max(1, np.count_nonzero(diagonal)) or 1.0
    raised = np.where(diagonal == 0, mean, diagonal)
    while True:
        factor = gram.astype(np.float64)
        np.einsum("ii->i", factor)[:] = raised + dampening * mean
        with suppress(np.linalg.LinAlgError):
            factor_in_place(factor)
            if np.isfinite(np.einsum("ii", factor)):  # a row's NaN or inf is in its pivot too
                return factor.astype(np.float32), dampening
        if dampening >= 1:
            raise CalibrationError("gram: is not positive semidefinite, so it is no X^T X.")
        dampening = min(1.0, max(10 * dampening, 1e-6))
