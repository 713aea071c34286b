"""X^T X on a device while samples come in."""

from __future__ import annotations

from collections.abc import Iterable

from mlpass.arrays import Array, add_product, cast_like, copied, double, host, namespace
from mlpass.errors import NotFiniteError
from mlpass.solvers.products import FAINT, LIMIT


class DeviceSum:
    """X^T X of arrays on a device, summed there.

    What fp32 cannot hold goes to fp64: on the processor, where the device has none.
    """

    def __init__(self, gram: Array) -> None:
        """Starts from a Gram, (groups, columns, columns)."""
        self._sum = copied(gram, lasting=True)
        self._peak, self._count = 0.0, 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the Gram."""
        return tuple(self._sum.shape)

    def add_all(self, portions: Iterable[tuple[Array, object]]) -> None:
        """Takes in (groups, samples, columns) each, with what an error is to say of it.

        Raises:
            NotFiniteError: an input is NaN or infinite.
        """
        for rows, whose in portions:
            if 0 not in rows.shape:
                self._add(rows, whose)

    def take(self, other: object) -> None:
        """Takes in another sum of that shape, on the same device."""
        assert isinstance(other, DeviceSum)
        self._widen(other._peak, other._count)
        if self._sum.dtype != other._sum.dtype:
            self._sum = copied(double(self._sum), lasting=True)
        self._sum += cast_like(other._sum, self._sum)

    def settle(self) -> None:
        """Holds nothing back."""

    def total(self) -> Array:
        """Returns the Gram so far, symmetric in every bit."""
        xp = namespace(self._sum)
        gram: Array = xp.triu(self._sum) + xp.triu(self._sum, k=1).mT
        return gram

    def _add(self, rows: Array, whose: object) -> None:
        xp = namespace(rows)
        if rows.dtype != xp.float64:
            rows = xp.astype(rows, xp.float32, copy=False)
        finite = xp.astype(xp.all(xp.isfinite(rows)), rows.dtype)
        valid, peak = host(xp.stack([finite, xp.max(xp.abs(rows))])).tolist()
        if not valid:
            raise NotFiniteError(whose)
        self._widen(peak, rows.shape[1])
        rows = cast_like(rows, self._sum)
        add_product(self._sum, rows.mT, rows)

    def _widen(self, peak: float, samples: int) -> None:
        """Goes over to fp64 where squares may overflow fp32, or lose their digits at its end."""
        self._peak, self._count = max(self._peak, peak), self._count + samples
        square = self._peak * self._peak
        overflows = square * self._count > LIMIT or 0 < square < FAINT
        if overflows and self._sum.dtype == namespace(self._sum).float32:
            self._sum = copied(double(self._sum), lasting=True)
