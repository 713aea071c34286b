"""How the modes rank: exact counts, over elements, rows, blocks and groups of m."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Kind, reshaped
from mlpass.parallel import map_slabs
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.norms import norm_dtype, widened
from mlpass.sparsity.select import Keys, keep_above, keys_of, lowest

Score = NDArray[np.floating]
Mask = NDArray[np.bool_]

_COMPARED = 16  # elements of a group that are compared in pairs
_COPIED = 1 << 12  # bytes that are worth a copy of their own


def keep_highest(score: Score, target_sparsity: float) -> Mask:
    """Returns the mask that zeroes exactly the floor(target * size) lowest scores."""
    keys = keys_of(np.ascontiguousarray(score)).reshape(-1)
    cut = lowest(keys, math.floor(target_sparsity * keys.size))
    return keep_above(keys, cut)[0].reshape(score.shape)


def row_zeros(target_sparsity: float, rows: int, columns: int) -> NDArray[np.int64]:
    """Returns how many elements each row loses: at most one more or less, floor(...) in all."""
    ends = [math.floor(target_sparsity * columns * row) for row in range(rows + 1)]
    return np.diff(np.array(ends, np.int64))


def keep_rows(score: Score | Keys, zeros: NDArray[np.int64]) -> Mask:
    """Returns the mask of (rows, columns), of scores or keys, without so many lowest a row."""
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


def outside_lowest(keys: Keys, n: int, m: int) -> Mask:
    """Returns True for all but the n lowest in every m along axis 1, whose length m divides.

    Of equals, the first goes first. How many come before an element is counted by comparing all
    with those so many places further on, which takes whole vectors at a time.
    """
    if n in (0, m):
        return np.full(keys.shape, n == 0)
    outer, channels, inner = keys.shape
    if m > _COMPARED:
        grouped = keys.reshape(outer, channels // m, m, inner).swapaxes(2, 3)
        zeros = np.full(keys.size // m, n, np.int64)
        kept = keep_rows(grouped.reshape(-1, m), zeros).reshape(grouped.shape)
        return kept.swapaxes(2, 3).reshape(keys.shape)
    flat, place = keys.reshape(-1), _places(m, inner, keys.size)
    before = np.zeros(flat.shape, np.uint8)
    for step in range(1, m):
        early, late = slice(None, -step * inner), slice(step * inner, None)
        goes_first = flat[early] <= flat[late]
        together = place[early] < m - step  # in one group of m
        before[late] += (together & goes_first).view(np.uint8)
        before[early] += (together > goes_first).view(np.uint8)
    return (before >= n).reshape(keys.shape)


def _places(m: int, inner: int, size: int) -> NDArray[np.uint8]:
    """Returns the place in its group of m of each of `size` elements, `inner` side by side."""
    groups = np.tile(np.arange(m, dtype=np.uint8).repeat(inner), -(-_COPIED // (m * inner)))
    return np.tile(groups, -(-size // groups.size))[:size]


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
    return reshaped(layout.split(array), around_axis(layout, dim))


def around_axis(layout: Layout, dim: int) -> tuple[int, int, int]:
    """Returns the shape (outer, channels, inner) of a split array, around the channels of `dim`."""
    if dim == 0:
        return 1, layout.all_rows, layout.columns
    return layout.all_rows, *layout.sizes[2:]


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
