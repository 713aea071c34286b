"""The product of two layers' inputs, or of inputs and outputs, summed over samples as they come."""

from __future__ import annotations

from math import isfinite, prod

from mlpass.arrays import Array, double, largest, namespace, on_host, taken
from mlpass.blas import one_blas_thread
from mlpass.errors import NotApplicable
from mlpass.solvers.products import FAINT, LIMIT, product

_ROWS = 8192  # that one product takes in at most: enough to be fast
_HELD = 1 << 24  # elements that may be held back for it


class CrossSum:
    """Z^T Y while its samples come in, where they are.

    numpy's arrays give the same in every bit on any number of threads.
    """

    def __init__(self) -> None:
        """Starts from nothing."""
        self._sum: Array | None = None
        self._held: list[tuple[Array, Array]] = []
        self._rows = 0

    def add(self, left: Array, right: Array) -> None:
        """Takes in some more rows of Z and of Y, which are not to change before `total`.

        Args:
            left: (groups, samples, columns), any float dtype, an array or a tensor.
            right: (groups, samples, others), likewise.

        Raises:
            NotApplicable: there is NaN or inf among them.
        """
        self._held.append((taken(left), taken(right)))
        self._rows += left.shape[1]
        elements = left.shape[0] * (left.shape[2] + right.shape[2])
        if self._rows >= max(256, min(_ROWS, _HELD // max(1, elements))):
            self.flush()

    def take(self, other: CrossSum) -> None:
        """Adds another's sum; `other` is not to be used any more.

        Raises:
            NotApplicable: as `add`.
        """
        self._sum = plus(self.total(), other.total())

    def total(self) -> Array | None:
        """Returns the sum, (groups, columns, others), fp32 or where it must fp64; None for zero.

        Raises:
            NotApplicable: as `add`.
        """
        self.flush()
        return self._sum

    def flush(self) -> None:
        """Sums what is held back, and lets go of it.

        Raises:
            NotApplicable: as `add`.
        """
        held, self._held, self._rows = self._held, [], 0
        if not held:
            return
        left, right = (_joined(side) for side in zip(*held, strict=True))
        peaks = largest(left), largest(right)
        if not all(map(isfinite, peaks)):
            raise NotApplicable("what the dense model makes there holds NaN or inf")
        peak = prod(peaks)
        if 0 in peaks:
            return
        if peak * left.shape[1] > LIMIT or peak < FAINT:
            left, right = double(left), double(right)
        self._sum = plus(self._sum, _product(left, right))


def plus(first: Array | None, second: Array | None) -> Array | None:
    """Returns the sum of two totals, of which None is zero; in fp64 where one of them is."""
    if first is None or second is None:
        return second if first is None else first
    if first.dtype != second.dtype:
        first, second = double(first), double(second)
    return first + second


def _joined(parts: tuple[Array, ...]) -> Array:
    joined: Array = parts[0] if len(parts) == 1 else namespace(parts[0]).concat(parts, axis=1)
    return joined


@one_blas_thread()
def _product(left: Array, right: Array) -> Array:
    made: Array = product(left.mT, right) if on_host(left) else left.mT @ right
    return made
