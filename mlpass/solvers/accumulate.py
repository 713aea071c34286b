"""The Gram of a layer's inputs, summed over samples as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import accumulate as accumulated
from itertools import chain, pairwise, product
from operator import add
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import (
    Array,
    copied,
    double,
    empty_like,
    namespace,
    on_host,
    placed,
    taken,
    zeros,
)
from mlpass.blas import one_blas_thread
from mlpass.buffers import empty
from mlpass.errors import CalibrationError, NotFiniteError
from mlpass.parallel import map_items
from mlpass.solvers.device_sum import DeviceSum
from mlpass.solvers.products import FAINT, LIMIT, Float, mirror, pairs, slabs

_ROWS = 8192  # that one product takes in at most: enough to be fast
_SLAB = 4096  # of them in a job: with fewer, a product is spent on packing its sides
_BLOCK = 768  # columns in a job
_HELD = 1 << 24  # elements that may be held back for it


class Portion(NamedTuple):
    """Some rows, (groups, samples, columns), and what an error is to say of them."""

    rows: Any
    whose: object


class GramSum:
    """X^T X while its samples come in, where they are.

    numpy's arrays give the same in every bit however they are portioned. Those of a device that
    numpy does not read are summed on it.
    """

    def __init__(self, gram: Array | None = None) -> None:
        """Starts from nothing, or from a Gram.

        Args:
            gram: (groups, columns, columns) of the samples so far, an array or a tensor.
        """
        self._sum: ArraySum | DeviceSum | None = None
        self._like: Array
        if gram is not None:
            self._begin(gram, copied(taken(gram)))

    def add(self, inputs: Array) -> None:
        """Takes in some more rows.

        Args:
            inputs: (groups, samples, columns) or (samples, columns), any float dtype, an array or a
                tensor; all of one kind.

        Raises:
            CalibrationError: an input is NaN or infinite, or the columns are not those of before.
        """
        self.add_all([(inputs, "")])

    def add_all(self, inputs: Iterable[tuple[Array, object]]) -> None:
        """Takes in many portions, and copies them on all cores.

        Raises:
            CalibrationError: as `add`.
        """
        portions = self._checked(inputs)
        first = next(portions, None)
        if first is not None and self._sum is not None:
            self._sum.add_all(chain([first], portions))

    def take(self, other: GramSum) -> None:
        """Takes in what another has summed, which is not to be used any more.

        Raises:
            CalibrationError: its columns are others.
        """
        other.settle()
        if self._sum is None:
            if other._sum is not None:
                self._sum, self._like = other._sum, other._like
        elif other._sum is not None:
            if self.shape != other.shape:
                raise CalibrationError(
                    f"sample_data: a layer's inputs are (groups, columns) {other.shape[:2]}, "
                    f"before they were {self.shape[:2]}."
                )
            self._sum.take(other._sum)

    def settle(self) -> None:
        """Sums what is held back, so that nothing but the sum is kept."""
        if self._sum is not None:
            self._sum.settle()

    def _checked(self, inputs: Iterable[tuple[Array, object]]) -> Iterator[Portion]:
        """Yields portions as (groups, samples, columns), which are those of the first."""
        for each, whose in inputs:
            rows = taken(each)
            rows = rows[None, ...] if rows.ndim == 2 else rows
            groups, _, columns = rows.shape
            if self._sum is None:
                self._begin(each, zeros(rows, (groups, columns, columns)))
            if self.shape != (groups, columns, columns):
                raise CalibrationError(
                    f"sample_data: a layer's inputs are (groups, columns) {(groups, columns)}, "
                    f"before they were {self.shape[:2]}.{whose}"
                )
            yield Portion(rows, whose)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the Gram so far; empty before the first row."""
        return () if self._sum is None else self._sum.shape

    def total(self) -> Array:
        """Returns the Gram of all rows so far, (groups, columns, columns), fp32; fp64 if it must.

        It is of the inputs' kind and on their device; on the CPU where it is fp64 and their device
        has none.

        Raises:
            CalibrationError: no inputs came in.
        """
        if self._sum is None:
            raise CalibrationError("sample_data: no inputs came in for a layer.")
        gram = self._sum.total()
        return placed(gram, self._like) if on_host(gram) else gram

    def _begin(self, like: Array, gram: Array) -> None:
        self._sum = ArraySum(gram) if isinstance(gram, np.ndarray) else DeviceSum(gram)
        self._like = empty_like(like, (0,))


class ArraySum:
    """X^T X of numpy's arrays while they come in."""

    def __init__(self, gram: Float) -> None:
        """Starts from a Gram, (groups, columns, columns), which it takes over."""
        groups, columns = gram.shape[:2]
        self._sum = gram
        self._power = float(np.einsum("gii->", gram, dtype=np.float64))
        self._most = max(256, min(_ROWS, _HELD // max(1, groups * columns)))
        self._rows: Any = None
        self._held = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the Gram."""
        return tuple(self._sum.shape)

    def add_all(self, portions: Iterable[Portion]) -> None:
        """Takes in (groups, samples, columns) each.

        Raises:
            CalibrationError: an input is NaN or infinite.
        """
        for batch in _batches(portions, self._most, self._held):
            if batch[0].rows.shape[1] == self._most:  # nothing is held: no need to copy
                self._guard(batch, [_power(batch[0].rows)])
                self._add_product(batch[0].rows.astype(self._sum.dtype, copy=False))
                continue
            self._hold(batch)
            if self._held == self._most:
                self._flush()

    def take(self, other: ArraySum | DeviceSum) -> None:
        """Takes in another sum of that shape, which is settled."""
        assert isinstance(other, ArraySum)
        self.settle()
        self._power += other._power
        if self._sum.dtype != other._sum.dtype or self._power > LIMIT:
            self._sum = self._sum.astype(np.float64, copy=False)
        self._sum += other._sum

    def settle(self) -> None:
        """Sums the rows that are held, and lets go of the room for them."""
        self._flush()
        self._rows = None

    def total(self) -> Float:
        """Returns the Gram of all rows so far."""
        self._flush()
        gram: Float = self._sum.copy()
        mirror(gram)
        return gram

    def _make_room(self, like: NDArray[np.floating]) -> None:
        """Makes room for rows to hold, with their axes in memory as the first rows have them."""
        groups, columns = self._sum.shape[:2]
        if like.strides[1] < like.strides[2]:
            self._rows = empty((groups, columns, self._most), self._sum.dtype).swapaxes(1, 2)
        else:
            self._rows = empty((groups, self._most, columns), self._sum.dtype)

    def _hold(self, portions: Sequence[Portion]) -> None:
        """Copies what there is room for behind the rows that are held."""
        if self._rows is None:
            self._make_room(portions[0].rows)
        counts = [portion.rows.shape[1] for portion in portions]
        places = [slice(*ends) for ends in pairwise(accumulated(counts, initial=self._held))]

        def put(some: slice) -> list[float]:
            powers = []
            for (rows, _), place in zip(portions[some], places[some], strict=True):
                target = self._rows[:, place]
                with np.errstate(over="ignore"):
                    target[...] = rows
                powers.append(_power(rows if rows.itemsize > target.itemsize else target))
            return powers

        jobs = slabs(len(portions), len(portions))
        powers = [power for some in map_items(put, jobs) for power in some]
        if self._guard(portions, powers):
            map_items(put, jobs)
        self._held += sum(counts)

    def _guard(self, portions: Sequence[Portion], powers: Sequence[float]) -> bool:
        """Goes over to fp64 where squares would overflow fp32, or lose their digits at its end.

        Returns:
            Whether it just did.
        """
        for (rows, whose), power in zip(portions, powers, strict=True):
            if not np.isfinite(power) and not np.isfinite(rows).all():
                raise NotFiniteError(whose)
        self._power += sum(powers)
        if self._sum.dtype == np.float64 or not (self._power > LIMIT or 0 < self._power < FAINT):
            return False
        self._sum, rows = self._sum.astype(np.float64), self._rows
        if rows is not None:
            self._make_room(rows)
            self._rows[:, : self._held] = rows[:, : self._held]
        return True

    def _flush(self) -> None:
        if self._held:
            self._add_product(self._rows[:, : self._held])
        self._held = 0

    @one_blas_thread()
    def _add_product(self, rows: NDArray[np.floating]) -> None:
        groups, samples, columns = rows.shape
        blocks = pairs(groups, columns, samples, _BLOCK)
        portions = slabs(samples, samples // _SLAB)

        def multiply(job: tuple[tuple[slice, slice, slice], slice]) -> Any:
            (part, left, right), some = job
            return np.matmul(rows[part, some, left].swapaxes(1, 2), rows[part, some, right])

        made = map_items(multiply, list(product(blocks, portions)))

        def add(number: int) -> None:
            for one in made[number * len(portions) : (number + 1) * len(portions)]:
                self._sum[blocks[number]] += one

        map_items(add, range(len(blocks)))


def _batches(portions: Iterable[Portion], size: int, held: int) -> Iterator[list[Portion]]:
    """Yields portions, cut so that those in a list fill up `size` rows; the last may be fewer."""
    batch: list[Portion] = []
    room = size - held
    for rows, whose in portions:
        while rows.shape[1]:
            batch.append(Portion(rows[:, :room], whose))
            rows, room = rows[:, room:], max(0, room - rows.shape[1])
            if not room:
                yield batch
                batch, room = [], size
    if batch:
        yield batch


def _power(rows: NDArray[np.floating]) -> float:
    """Returns the square sum of (groups, samples, columns)."""
    exact = rows.astype(np.float32) if rows.itemsize < 4 else rows
    with np.errstate(over="ignore"):
        if exact.flags.c_contiguous:
            return float(np.vdot(exact, exact))
        return float(np.einsum("gsc,gsc->", exact, exact))


def sum_of_grams(grams: Sequence[Array]) -> Array:
    """Returns the sum of Grams of one kind; in fp64 where some have gone to that."""
    wide = any(gram.dtype == namespace(gram).float64 for gram in grams)
    return reduce(add, map(double, grams) if wide else grams)


def accumulate(gram: Array | None, inputs: Array) -> Array:
    """Returns the Gram with some more input rows in it; `GramSum` is faster for many portions.

    Args:
        gram: (groups, columns, columns) of the samples so far; None before the first.
        inputs: (groups, samples, columns) or (samples, columns), any float dtype, an array or a
            tensor.

    Raises:
        CalibrationError: an input is NaN or infinite, or the columns are not those of `gram`.
    """
    total = GramSum(gram)
    total.add(inputs)
    return total.total()
