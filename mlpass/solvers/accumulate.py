"""The Gram of a layer's inputs, summed over samples as they come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.errors import CalibrationError
from mlpass.parallel import map_items, one_blas_thread
from mlpass.solvers.arrays import blank, copied, tensor_form, zeros
from mlpass.solvers.products import Float, mirror, pairs, slabs
from mlpass.sparsity.tensors import is_tensor, placed, taken

_ROWS = 8192  # that one product takes in at most: enough to be fast
_SLAB = 4096  # of them in a job: with fewer, a product is spent on packing its sides
_BLOCK = 768  # columns in a job
_HELD = 1 << 24  # elements that may be held back for it
LIMIT = 1e38  # below the largest fp32: no sum of products can be above the largest sum of squares
FAINT = 1e-26  # of which a millionth is still a normal fp32


class GramSum:
    """X^T X while its samples come in, where they are.

    numpy's arrays give the same in every bit however they are portioned. Tensors of a device that
    numpy does not read are summed on it.
    """

    def __init__(self, gram: Float | None = None) -> None:
        """Starts from nothing, or from a Gram.

        Args:
            gram: (groups, columns, columns) of the samples so far, an array or a tensor.
        """
        self._sum: Any = None
        self._like: Any = None
        if gram is not None:
            self._begin(gram, copied(taken(gram)))

    def add(self, inputs: NDArray[Any]) -> None:
        """Takes in some more rows.

        Args:
            inputs: (groups, samples, columns) or (samples, columns), any float dtype, an array or a
                tensor; all of one kind.

        Raises:
            CalibrationError: an input is NaN or infinite, or the columns are not those of before.
        """
        rows = taken(inputs)
        rows = rows[None] if rows.ndim == 2 else rows
        groups, _, columns = rows.shape
        if self._sum is None:
            self._begin(inputs, zeros(rows, (groups, columns, columns)))
        if self._sum.shape != (groups, columns, columns):
            raise CalibrationError(
                f"sample_data: a layer's inputs are (groups, columns) {(groups, columns)}, "
                f"before they were {(self._sum.shape[0], self._sum.shape[1])}."
            )
        self._sum.add(rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the Gram so far; empty before the first row."""
        return () if self._sum is None else self._sum.shape

    def total(self) -> Float:
        """Returns the Gram of all rows so far, (groups, columns, columns), fp32; fp64 if it must.

        It is of the inputs' kind and on their device; fp64 that the device has not is on the CPU.

        Raises:
            CalibrationError: there were none.
        """
        if self._sum is None:
            raise CalibrationError("sample_data: a layer got no inputs.")
        gram: Float = self._sum.total()
        return gram if is_tensor(gram) else placed(gram, self._like)

    def _begin(self, like: Any, gram: Any) -> None:
        form = tensor_form(gram)
        self._sum = form.TensorSum(gram) if form else ArraySum(gram)
        self._like = blank(like, (0,))


class ArraySum:
    """X^T X of numpy's arrays while they come in."""

    def __init__(self, gram: Float) -> None:
        """Starts from a Gram, (groups, columns, columns), which it takes over."""
        self._begin(gram)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the Gram."""
        return tuple(self._sum.shape)

    def add(self, rows: NDArray[Any]) -> None:
        """Takes in (groups, samples, columns).

        Raises:
            CalibrationError: an input is NaN or infinite.
        """
        samples = rows.shape[1]
        done = 0
        while done < samples:
            count = min(samples - done, self._most - self._held)
            portion = rows[:, done : done + count]
            self._widen(portion)
            if count == self._most:  # nothing is held back: no need to copy
                self._add_product(portion.astype(self._sum.dtype, copy=False))
            else:
                self._rows[:, self._held : self._held + count] = portion
                self._held += count
                if self._held == self._most:
                    self._flush()
            done += count

    def total(self) -> Float:
        """Returns the Gram of all rows so far."""
        self._flush()
        gram: Float = self._sum.copy()
        mirror(gram)
        return gram

    def _begin(self, gram: Float) -> None:
        groups, columns = gram.shape[:2]
        self._sum = gram
        self._power = float(np.einsum("gii->", gram, dtype=np.float64))
        self._most = max(256, min(_ROWS, _HELD // max(1, groups * columns)))
        self._rows: Any = empty((groups, self._most, columns), gram.dtype)
        self._held = 0

    def _widen(self, rows: NDArray[Any]) -> None:
        """Goes over to fp64 where squares would overflow fp32, or lose their digits at its end.

        Raises:
            CalibrationError: there is NaN or inf.
        """
        exact = rows.astype(np.float32) if rows.itemsize < 4 else rows
        with np.errstate(over="ignore"):
            self._power += float(np.vdot(exact, exact))
        if not np.isfinite(self._power) and not np.isfinite(rows).all():
            raise CalibrationError("sample_data: a layer's inputs hold NaN or inf.")
        if self._sum.dtype == np.float32 and (self._power > LIMIT or 0 < self._power < FAINT):
            held, self._sum = self._rows[:, : self._held], self._sum.astype(np.float64)
            self._rows = empty(self._rows.shape, np.float64)
            self._rows[:, : self._held] = held

    def _flush(self) -> None:
        if self._held:
            self._add_product(self._rows[:, : self._held])
        self._held = 0

    @one_blas_thread()
    def _add_product(self, rows: NDArray[Any]) -> None:
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


def sum_of_grams(grams: Sequence[Float]) -> Float:
    """Returns the sum of Grams of one kind, some of which may have gone to fp64."""
    form = tensor_form(grams[0])
    result: Float = form.added(grams) if form else np.sum(grams, axis=0)
    return result


def accumulate(gram: Float | None, inputs: NDArray[Any]) -> Float:
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
