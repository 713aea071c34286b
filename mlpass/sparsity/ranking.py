"""How the modes rank: exact counts, over elements, rows, blocks and groups of m."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Kind, reshaped
from mlpass.parallel import map_slabs
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.norms import norm_dtype, widened
from mlpass.sparsity.select import keep_above, keys_of, lowest

Score = NDArray[np.floating]
Mask = NDArray[np.bool_]


def keep_highest(score: Score, target_sparsity: float) -> Mask:
    """Returns the mask that zeroes exactly the floor(target * size) lowest scores."""
    keys = keys_of(np.ascontiguousarray(score)).reshape(-1)
    cut = lowest(keys, math.floor(target_sparsity * keys.size))
    return keep_above(keys, cut)[0].reshape(score.shape)


def row_zeros(target_sparsity: float, rows: int, columns: int) -> NDArray[np.int64]:
    """Returns how many elements each row loses: at most one more or less, floor(...) in all."""
    ends = [math.floor(target_sparsity * columns * row) for row in range(rows + 1)]
    return np.diff(np.array(ends, np.int64))


def keep_rows(score: Score, zeros: NDArray[np.int64]) -> Mask:
    """Returns the mask of (rows, columns) that zeroes so many of the lowest of each row."""
    rows, columns = score.shape
    keys = keys_of(np.ascontiguousarray(score))
    keep = np.ones(score.shape, bool)

    def rank(start: int, stop: int) -> None:
        slab, count = keys[start:stop], zeros[start:stop, None]
        last = np.maximum(count - 1, 0)
        parted = np.partition(slab, np.unique(last), axis=1)
        np.greater(slab, np.take_along_axis(parted, last, axis=1), out=keep[start:stop])
        # Where there are ties, or nothing to zero, that is too many.
        rest = np.flatnonzero(columns - keep[start:stop].sum(axis=1) != count[:, 0])
        order = np.argsort(slab[rest], axis=1, kind="stable")
        kept = np.empty((rest.size, columns), bool)
        np.put_along_axis(kept, order, np.arange(columns) >= count[rest], axis=1)
        keep[start + rest] = kept

    map_slabs(rank, rows, columns)
    return keep


def keep_slices(score: Score, layout: Layout, target_sparsity: float, leading: int) -> Mask:
    """Returns the mask that zeroes whole slices, one for each index of the `leading` axes."""
    split = layout.split(score)
    flat = split.reshape(math.prod(split.shape[:leading]), -1)
    power = np.empty(len(flat), norm_dtype(score.dtype))

    def measure(start: int, stop: int) -> None:
        slab = widened(flat[start:stop])
        np.einsum("ij,ij->i", slab, slab, out=power[start:stop])

    map_slabs(measure, len(flat), elements_each=flat.shape[1])
    kept = keep_highest(power, target_sparsity)
    return layout.join(np.repeat(kept, flat.shape[1]).reshape(split.shape))


def outside_lowest(keys: NDArray[np.generic], n: int, m: int) -> Mask:
    """Returns True for all but the n lowest in every m along axis 1, whose length m divides.

    Of equals, the first goes first.
    """
    kept = np.full(keys.shape, n == 0)
    if n in (0, m):
        return kept
    planes = [np.ascontiguousarray(keys[:, position::m]) for position in range(m)]
    highest_out, lowest_in = _neighbours(planes, n)
    for position, plane in enumerate(planes):
        np.greater_equal(plane, lowest_in, out=kept[:, position::m])
    tied = np.nonzero(highest_out == lowest_in)
    if tied[0].size:
        cut, some = lowest_in[tied], [plane[tied] for plane in planes]
        left = np.full(cut.shape, n, np.int32)  # of those equal to it, so many go
        for plane in some:
            left -= plane < cut
        for position, plane in enumerate(some):
            goes = (plane == cut) & (left > 0)
            left -= goes
            kept[:, position::m][tied] = (plane >= cut) & ~goes
    return kept


def _neighbours(
    planes: list[NDArray[np.generic]], n: int
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Returns the n-th lowest of the planes, and the one after it, element by element."""
    wires = list(planes)
    for low, high, alone in _comparisons(len(planes), n):
        first, second = wires[low], wires[high]
        if alone != high:
            wires[low] = np.minimum(first, second)
        if alone != low:
            wires[high] = np.maximum(first, second)
    return wires[n - 1], wires[n]


@cache
def _comparisons(m: int, n: int) -> list[tuple[int, int, int | None]]:
    """Returns what sorts m wires as far as wires n - 1 and n go: (low, high, the one that is used).

    That one is None where both are. Source: Batcher 1968, "Sorting networks and their
    applications", odd-even merge sort; what leads nowhere is left out.
    """
    every = []
    size = 1
    while size < m:
        step = size
        while step:
            for start in range(step % size, m - step, 2 * step):
                lows = range(start, min(start + step, m - step))
                every += [
                    (low, low + step)
                    for low in lows
                    if low // (2 * size) == (low + step) // (2 * size)
                ]
            step //= 2
        size *= 2
    used = {n - 1, n}
    kept: list[tuple[int, int, int | None]] = []
    for pair in reversed(every):
        ends = used.intersection(pair)
        if ends:
            kept.append((*pair, None if len(ends) == 2 else ends.pop()))
            used.update(pair)
    return kept[::-1]


def map_groups(
    work: Callable[[tuple[slice, slice]], None], shape: tuple[int, ...], size: int
) -> None:
    """Calls `work` with slabs of (outer, channels, inner) that cut no group of `size` channels."""
    outer, channels, inner = shape
    if outer > 1:
        every = slice(0, channels)
        map_slabs(lambda start, stop: work((slice(start, stop), every)), outer, channels * inner)
        return

    def work_on(start: int, stop: int) -> None:
        work((slice(0, 1), slice(start * size, min(stop * size, channels))))

    map_slabs(work_on, -(-channels // size), size * inner)


def channels_first(array: Kind, layout: Layout, dim: int) -> Kind:
    """Returns `array` as (outer, channels, inner), with the channels of `dim` in the middle."""
    if dim == 1 and len(layout.axes[2]) == 1:
        return reshaped(array, around_channels(layout))
    groups, rows, channels, positions = layout.sizes
    shape = (groups * rows, channels, positions)
    if dim == 0:
        shape = (1, groups * rows, channels * positions)
    return reshaped(layout.split(array), shape)


def channels_back(array: Kind, layout: Layout, dim: int) -> Kind:
    """Returns the inverse of `channels_first`."""
    if dim == 1 and len(layout.axes[2]) == 1:
        return reshaped(array, layout.shape)
    return layout.join(reshaped(array, layout.sizes))


def around_channels(layout: Layout) -> tuple[int, int, int]:
    """Returns the shape of the stored weight around its channels, where they are one axis."""
    (axis,) = layout.axes[2]
    sizes = layout.split_shape
    return math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :])


def largest_not_above(limit: float, dtype: np.dtype[np.generic]) -> int:
    """Returns the key of the largest value of `dtype` that is at most `limit`."""
    with np.errstate(over="ignore"):
        rounded = np.asarray(limit, dtype)
    if float(rounded) > limit:
        rounded = np.nextafter(rounded, dtype.type(0))
    return int(keys_of(rounded))
