"""Columns of a weight as a sweep takes them, (groups, columns, rows): copied there and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, empty_like, on_host, placed
from mlpass.parallel import map_items
from mlpass.solvers.products import Part, jobs

Places = Array | slice

_COPY = 16  # multiplications that copying an element across is worth


def places(columns: NDArray[np.intp], like: Array) -> Places:
    """Returns indices of columns where they are used; of neighbours a slice.

    A slice is several times as fast to copy through.
    """
    first, last = int(columns[0]), int(columns[-1]) + 1
    if np.array_equal(columns, np.arange(first, last)):
        return slice(first, last)
    return placed(columns, like)


def room(like: Array, shape: tuple[int, ...], mask: bool = False) -> Array:
    """Returns an uninitialised array, on the host with some room after each row.

    Rows that are a power of two apart share a few lines of the cache: to transpose them is slow.
    """
    if not on_host(like):
        return empty_like(like, shape, mask)
    return empty_like(like, (*shape[:-1], shape[-1] + 16), mask)[..., : shape[-1]]


def turned(weight: Array, order: NDArray[np.intp]) -> Array:
    """Returns (groups, rows, columns) as (groups, columns, rows), in the order of a sweep."""
    groups, rows, columns = weight.shape
    result, native = room(weight, (groups, columns, rows)), places(order, weight)

    def turn(part: Part) -> None:
        group, row, _ = part
        result[group, :, row] = weight[part][:, :, native].mT

    map_items(turn, jobs(weight, columns * _COPY))
    return result


def take_away(weight: Array, values: Array, native: Places) -> None:
    """Subtracts some columns of (groups, rows, columns) from (groups, columns, rows), in place."""

    def take(part: Part) -> None:
        group, row, _ = part
        values[group, :, row] -= weight[part][:, :, native].mT

    map_items(take, jobs(weight, values.shape[1] * _COPY))


def put_back(values: Array, target: Array, native: Places) -> None:
    """Copies (groups, columns, rows) to some columns of a (groups, rows, columns) target."""

    def put(part: Part) -> None:
        group, row, _ = part
        target[group, row, native] = values[group, :, row].mT

    map_items(put, jobs(target, values.shape[1] * _COPY))
