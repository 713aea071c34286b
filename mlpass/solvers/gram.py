"""The Gram as methods read it: checked, scaled, dampened, factored; each of it done once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from threading import Lock
from typing import TypeVar, cast

import numpy as np

from mlpass.arrays import (
    Array,
    cast_like,
    copied,
    diagonals,
    double,
    empty_like,
    host,
    namespace,
    on_host,
    placed,
    ratio,
    row_dots,
    summed,
    taken,
    total,
    with_diagonals,
)
from mlpass.errors import CalibrationError
from mlpass.parallel import map_items
from mlpass.solvers.accumulate import GramSum as GramSum
from mlpass.solvers.accumulate import accumulate as accumulate
from mlpass.solvers.dampening import dampened_factors, inverses
from mlpass.solvers.products import Part, jobs, pairs

Derived = TypeVar("Derived")

# Of a column's own power: what is added to tell whether the others tell all of it, and what is then
# left at most; and the share of such columns that samples have to be short for.
_FAINT, _TOLD, MANY = 1e-5, 1e-4, 0.05

# Elements of a Gram of which inverses and shrunk ones are kept for other weights on it: a search
# takes several, and of a wider one they would be most of what a run has in memory.
_KEPT = 2048**2


class Gram:
    """X^T X of one activation, and whatever methods derive from it alone.

    Sites that read one activation share one of these, so that the second and third do not factor it
    again. What was derived is kept as long as the object is.

    Attributes:
        diagonal: (groups, columns) fp32, with a mean of 1 over its live elements.
        is_diagonal: whether there is nothing else, and so no `matrix`.
        unit: what its elements were divided by.
    """

    def __init__(self, gram: Array) -> None:
        """Checks and scales a Gram: a numpy array, or one on a device, where all is worked out.

        Args:
            gram: (columns, columns), or (groups, columns, columns), or (columns,) where it is
                diagonal: inputs that do not correlate, like the one-hot rows that an embedding
                table meets.

        Raises:
            CalibrationError: its shape is another, or it holds NaN or inf, or a negative diagonal.
        """
        gram = taken(gram)
        self.is_diagonal = gram.ndim == 1
        grams = gram[None, ...] if gram.ndim <= 2 else gram
        if not self.is_diagonal and (grams.ndim != 3 or grams.shape[1] != grams.shape[2]):
            raise CalibrationError(
                "gram: must be (columns, columns), (groups, columns, columns) or, where it is "
                f"diagonal, (columns,). Got shape {tuple(gram.shape)}."
            )
        self._matrix, self.unit = scaled(grams)
        diagonal = diagonals(self._matrix) if grams.ndim == 3 else self._matrix
        self.diagonal: Array = copied(diagonal)
        self._derived: dict[Hashable, object] = {}
        self._deriving: dict[Hashable, Lock] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_deriving": {}}  # locks are of this process

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
        live = np.maximum(1, np.count_nonzero(diagonal, axis=1))
        means = host(summed(diagonal, (1,), False)) / live
        if len(means) == 1:
            means[:] = 1
        return placed(np.where(means > 0, means, 1).astype(np.float32), self.diagonal)

    @property
    def hosted(self) -> Gram:
        """The Gram in numpy's arrays: itself where it is."""
        if on_host(self._matrix):
            return self
        matrix = self._matrix[0, ...] if self.is_diagonal else self._matrix
        return self.derived("hosted", lambda: Gram(host(matrix)))

    def derived(self, key: Hashable, make: Callable[[], Derived]) -> Derived:
        """Returns what `make` returned when `key` was first asked for.

        Weights on one Gram are solved for side by side, so others may ask meanwhile: they wait. No
        job that `make` gives to the cores may ask for `key` itself.
        """
        with self._deriving.setdefault(key, Lock()):
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
            uppers, _ = dampened_factors(unit.matrix, _FAINT)
        except CalibrationError:  # of columns so quiet that rounding outweighs what they tell
            return False
        own = host(diagonals(uppers)) ** 2
        live = host(self.diagonal) > 0
        return bool(np.count_nonzero(live & (own < _TOLD)) >= MANY * np.count_nonzero(live))

    def shrunk(self, share: float) -> Gram:
        """Returns the same with a share of all that is off the diagonal gone; 0 is itself.

        At 1 it is that of inputs which do not correlate.

        Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
        matrices", Journal of Multivariate Analysis 88 (the shrinkage; towards the diagonal here).

        Args:
            share: 0 to 1.
        """
        if self.is_diagonal or not share:
            return self
        return self._kept(
            ("shrunk", share),
            lambda: Gram(with_diagonals(self.matrix * (1 - share), self.diagonal)),
        )

    def inverse(self, dampening: float, penalty: float) -> tuple[Array, float]:
        """Returns `(G + (dampening * mean + penalty) I)^-1` of each group, and its dampening.

        Args:
            dampening: fraction of a group's mean live diagonal; raised where that is not enough.
            penalty: the same number for all groups, however loud they are.

        Raises:
            CalibrationError: it is not positive semidefinite.
        """
        key = ("inverse", dampening, penalty)
        return self._kept(key, lambda: self._inverse(dampening, penalty))

    def _kept(self, key: Hashable, make: Callable[[], Derived]) -> Derived:
        """Returns what `make` returns, which is kept unless the Gram is a wide one."""
        return make() if math.prod(self._matrix.shape) > _KEPT else self.derived(key, make)

    def _inverse(self, dampening: float, penalty: float) -> tuple[Array, float]:
        extra = [penalty / mean for mean in host(self.means).tolist()]
        uppers, taking = dampened_factors(self.matrix, [dampening + each for each in extra])
        return inverses(uppers), max(used - each for used, each in zip(taking, extra, strict=True))

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
        squares = row_dots(weight.mT, weight.mT)
        return float(np.vdot(host(squares).astype(np.float64), host(gram.diagonal)))
    if not isinstance(weight, np.ndarray):
        return max(0.0, total((weight.mT @ weight) * gram.matrix))
    matrix = host(gram.matrix)

    def multiply(pair: tuple[slice, slice, slice]) -> float:
        part, left, right = pair
        square = np.matmul(weight[part, :, left].mT, weight[part, :, right])
        sums = np.einsum("gij,gij->gi", square, matrix[pair])
        return float(sums.sum(dtype=np.float64)) * (1 if left == right else 2)

    return max(0.0, sum(map_items(multiply, pairs(groups, columns, rows))))


def scaled(gram: Array) -> tuple[Array, float]:
    """Returns the Gram in fp32, divided by the mean of its live diagonal over all groups, and that.

    Args:
        gram: (groups, columns, columns), or (groups, columns) where it is diagonal.

    Raises:
        CalibrationError: it holds NaN or inf, or a negative diagonal.
    """
    xp, parts = namespace(gram), jobs(gram, gram.shape[-1])
    diagonal = host(diagonals(gram) if gram.ndim == 3 else gram)
    if not all(map_items(lambda part: bool(xp.all(xp.isfinite(gram[part]))), parts)):
        raise CalibrationError("gram: holds NaN or inf.")
    if diagonal.min(initial=0.0) < 0:
        raise CalibrationError("gram: has a negative diagonal, so it is not X^T X.")
    power = float(np.sum(diagonal, dtype=np.float64))
    mean = power / int(np.count_nonzero(diagonal)) if power else 1.0
    narrow = gram.dtype == xp.float32 and 1e-30 < mean < 1e30
    result = empty_like(gram, gram.shape)

    def scale(part: Part) -> None:
        exact = gram[part] if narrow else double(gram[part])
        result[part] = cast_like(exact * (1 / mean), result)

    map_items(scale, parts)
    return result, mean
