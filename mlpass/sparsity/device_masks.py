"""The modes' rules on a device, in the array API standard.

There every mode comes to one thing: rows of which so many of the lowest go, of equals the first.
Counts, order of ties and refusals are those of the mode's own `keep`, which is numpy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mlpass.arrays import (
    Array,
    double,
    empty_like,
    has_double,
    namespace,
    numbered,
    placed,
    reshaped,
)
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode, needed
from mlpass.sparsity.modes import (
    NM,
    Block,
    Channel,
    Kernel,
    Percentile,
    Threshold,
    check_fits,
    check_kernels,
)
from mlpass.sparsity.ranking import channels_back, channels_first, largest_not_above, row_zeros
from mlpass.sparsity.windows import RowZeros


def _threshold(mode: Threshold, score: Array, layout: Layout | None) -> Array:
    # What fp32 makes of the threshold itself may be above it.
    limit = np.uint32(largest_not_above(mode.threshold, np.dtype(np.float32))).view(np.float32)
    xp = namespace(score)
    keep: Array = xp.astype(score, xp.float32, copy=False) > float(limit)
    size = math.prod(score.shape)
    mode.check_pays(size - int(xp.sum(xp.astype(keep, xp.int64))), size)
    return keep


def _percentile(mode: Percentile, score: Array, layout: Layout | None) -> Array:
    if mode.scope != "row":
        return _keep_highest(score, mode.target_sparsity)
    used = needed(mode, layout)
    zeros = row_zeros(mode.target_sparsity, used.all_rows, used.columns)
    return _row_zeros(RowZeros(tuple(zeros.tolist())), score, layout)


def _row_zeros(mode: RowZeros, score: Array, layout: Layout | None) -> Array:
    used = needed(mode, layout)
    matrix = reshaped(used.split(score), (used.all_rows, used.columns))
    keep = _outside_lowest(matrix, placed(np.array(mode.zeros, np.int64)[:, None], score))
    return used.join(reshaped(keep, used.sizes))


def _n_of_m(mode: NM, score: Array, layout: Layout | None) -> Array:
    used = needed(mode, layout)
    grouped = channels_first(score, used, mode.dim)
    outer, channels, inner = grouped.shape
    check_fits(mode, channels, mode.m)
    tail = channels % mode.m
    parts = []
    for start, stop, m in ((0, channels - tail, mode.m), (channels - tail, channels, tail)):
        if stop > start:
            members = reshaped(grouped[:, start:stop, :], (outer, -1, m, inner)).mT
            kept = _outside_lowest(reshaped(members, (-1, m)), m * mode.n // mode.m)
            kept = reshaped(kept, members.shape).mT
            parts.append(reshaped(kept, (outer, stop - start, inner)))
    keep: Array = namespace(score).concat(parts, axis=1)
    return channels_back(keep, used, mode.dim)


def _block(mode: Block, score: Array, layout: Layout | None) -> Array:
    used, size, xp = needed(mode, layout), mode.block_size, namespace(score)
    grouped = channels_first(score, used, mode.dim)
    outer, channels, inner = grouped.shape
    check_fits(mode, channels, size)
    starts = np.arange(0, channels, size)
    lengths = np.diff(np.append(starts, channels))
    squares = xp.square(_wide(grouped))
    padding = xp.zeros_like(squares[:, : len(starts) * size - channels, :])
    padded = reshaped(xp.concat([squares, padding], axis=1), (outer, -1, size, inner))
    counts = xp.astype(placed(lengths[:, None], score), squares.dtype)
    kept = _keep_highest(xp.sum(padded, axis=2) / counts, mode.target_sparsity)
    whole: Array = xp.broadcast_to(kept[:, :, None, :], padded.shape)
    return channels_back(reshaped(whole, (outer, -1, inner))[:, :channels, :], used, mode.dim)


def _kernel(mode: Kernel, score: Array, layout: Layout | None) -> Array:
    used = needed(mode, layout)
    check_kernels(used)
    return _keep_slices(score, used, mode.target_sparsity, 3)


def _channel(mode: Channel, score: Array, layout: Layout | None) -> Array:
    return _keep_slices(score, needed(mode, layout), mode.target_sparsity, 2)


RULES: dict[type[Mode], Callable[[Any, Array, Layout | None], Array]] = {
    Threshold: _threshold,
    Percentile: _percentile,
    RowZeros: _row_zeros,
    NM: _n_of_m,
    Block: _block,
    Kernel: _kernel,
    Channel: _channel,
}


def _keep_highest(score: Array, target_sparsity: float) -> Array:
    """Returns the mask that zeroes exactly the floor(target * size) lowest scores."""
    size = math.prod(score.shape)
    kept = _outside_lowest(reshaped(score, (1, size)), math.floor(target_sparsity * size))
    return reshaped(kept, score.shape)


def _keep_slices(score: Array, layout: Layout, target_sparsity: float, leading: int) -> Array:
    """Returns the mask that zeroes whole slices, one for each index of the `leading` axes."""
    xp, split = namespace(score), layout.split(score)
    flat = _wide(reshaped(split, (math.prod(split.shape[:leading]), -1)))
    kept = _keep_highest(xp.sum(xp.square(flat), axis=1), target_sparsity)
    keep: Array = xp.broadcast_to(kept[:, None], flat.shape)
    return layout.join(keep)


def _outside_lowest(score: Array, zeros: Array | int) -> Array:
    """Returns False for the lowest of each row of (rows, columns), of equals for the first.

    Args:
        score: to rank, 0 or more.
        zeros: how many, one number or (rows, 1).
    """
    xp = namespace(score)
    if 0 in score.shape:
        return ~empty_like(score, score.shape, mask=True)
    cut = xp.sort(score, axis=1)  # and of that the highest that goes
    if isinstance(zeros, int):
        cut = cut[:, max(0, zeros - 1), None]
    else:
        goes = zeros > numbered(score, score.shape[1])
        cut = xp.max(xp.where(goes, cut, -1.0), axis=1, keepdims=True)
    below, ties = score < cut, score == cut
    left = zeros - xp.sum(xp.astype(below, xp.int64), axis=1, keepdims=True)
    earlier = xp.cumulative_sum(xp.astype(ties, xp.int32), axis=1, dtype=xp.int32)
    keep: Array = ~(below | (ties & (earlier <= left)))
    return keep


def _wide(score: Array) -> Array:
    """Returns scores whose squares neither overflow nor vanish: in fp64, or of 1 at most."""
    if has_double(score):
        return double(score)
    xp = namespace(score)
    wide: Array = score / xp.clip(xp.max(score), xp.finfo(score.dtype).smallest_normal)
    return wide
