"""The modes' rules on torch tensors: importing this module imports torch.

On a tensor every mode comes to one thing: rows of which so many of the lowest go, of equals the
first. Counts, order of ties and refusals are those of the mode's own `keep`, which is numpy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mlpass.sparsity.layout import Layout
from mlpass.sparsity.modes import (
    NM,
    Block,
    Channel,
    Kernel,
    Mode,
    Percentile,
    Threshold,
    check_fits,
    check_kernels,
    needed,
)
from mlpass.sparsity.ranking import channels_back, channels_first, largest_not_above
from mlpass.sparsity.tensors import has_double, placed

Tensor = Any


def _threshold(mode: Threshold, score: Tensor, layout: Layout | None) -> Tensor:
    # What fp32 makes of the threshold itself may be above it.
    limit = np.uint32(largest_not_above(mode.threshold, np.dtype(np.float32))).view(np.float32)
    keep = score.float() > float(limit)
    mode.check_pays(keep.numel() - int(keep.sum()), keep.numel())
    return keep


def _percentile(mode: Percentile, score: Tensor, layout: Layout | None) -> Tensor:
    if mode.scope != "row":
        return _keep_highest(score, mode.target_sparsity)
    used = needed(mode, layout)
    groups, rows, channels, positions = used.sizes
    columns = channels * positions
    ends = [math.floor(mode.target_sparsity * columns * row) for row in range(groups * rows + 1)]
    matrix: Tensor = used.split(score).reshape((groups * rows, columns))
    keep = _outside_lowest(matrix, placed(np.diff(ends)[:, None], score))
    return used.join(keep.reshape(used.sizes))


def _n_of_m(mode: NM, score: Tensor, layout: Layout | None) -> Tensor:
    used = needed(mode, layout)
    grouped: Tensor = channels_first(score, used, mode.dim)
    outer, channels, inner = grouped.shape
    check_fits(mode, channels, mode.m)
    tail = channels % mode.m
    keep = torch.empty_like(grouped, dtype=torch.bool)
    for part, m in ((slice(0, channels - tail), mode.m), (slice(channels - tail, None), tail)):
        if m:
            members = grouped[:, part].reshape(outer, -1, m, inner).transpose(2, 3)
            kept = _outside_lowest(members.reshape(-1, m), m * mode.n // mode.m)
            keep[:, part] = kept.reshape(members.shape).transpose(2, 3).flatten(1, 2)
    return channels_back(keep, used, mode.dim)  # type: ignore[arg-type]


def _block(mode: Block, score: Tensor, layout: Layout | None) -> Tensor:
    used, size = needed(mode, layout), mode.block_size
    grouped: Tensor = channels_first(score, used, mode.dim)
    outer, channels, inner = grouped.shape
    check_fits(mode, channels, size)
    starts = np.arange(0, channels, size)
    lengths = placed(np.diff(np.append(starts, channels)), score)
    squares = _widened(grouped).square()
    padding = squares.new_zeros((outer, len(starts) * size - channels, inner))
    padded = torch.cat([squares, padding], dim=1)
    sums = padded.reshape(outer, -1, size, inner).sum(dim=2)
    kept = _keep_highest(sums / lengths[:, None], mode.target_sparsity)
    whole: Any = kept.repeat_interleave(size, dim=1)[:, :channels]
    return channels_back(whole, used, mode.dim)


def _kernel(mode: Kernel, score: Tensor, layout: Layout | None) -> Tensor:
    used = needed(mode, layout)
    check_kernels(used)
    return _keep_slices(score, used, mode.target_sparsity, 3)


def _channel(mode: Channel, score: Tensor, layout: Layout | None) -> Tensor:
    return _keep_slices(score, needed(mode, layout), mode.target_sparsity, 2)


RULES: dict[type[Mode], Callable[[Any, Tensor, Layout | None], Tensor]] = {
    Threshold: _threshold,
    Percentile: _percentile,
    NM: _n_of_m,
    Block: _block,
    Kernel: _kernel,
    Channel: _channel,
}


def _keep_highest(score: Tensor, target_sparsity: float) -> Tensor:
    """Returns the mask that zeroes exactly the floor(target * size) lowest scores."""
    flat = score.reshape(1, -1)
    return _outside_lowest(flat, math.floor(target_sparsity * flat.shape[1])).reshape(score.shape)


def _keep_slices(score: Tensor, layout: Layout, target_sparsity: float, leading: int) -> Tensor:
    """Returns the mask that zeroes whole slices, one for each index of the `leading` axes."""
    split: Tensor = layout.split(score)
    flat = split.reshape(math.prod(split.shape[:leading]), -1)
    kept = _keep_highest(_widened(flat).square().sum(dim=1), target_sparsity)
    return layout.join(kept[:, None].expand_as(flat).reshape(split.shape))


def _outside_lowest(score: Tensor, zeros: Any) -> Tensor:
    """Returns False for the lowest of each row of (rows, columns), of equals for the first.

    Args:
        score: to rank.
        zeros: how many, one number or (rows, 1).
    """
    if score.numel() == 0:
        return torch.ones_like(score, dtype=torch.bool)
    counts = score.new_full((len(score), 1), 0, dtype=torch.int64) + zeros
    ascending = torch.sort(score, dim=1).values
    cut = ascending.gather(1, (counts - 1).clamp(min=0))
    below, ties = score < cut, score == cut
    left = counts - below.sum(dim=1, keepdim=True)
    return ~(below | (ties & (ties.cumsum(dim=1, dtype=torch.int32) <= left)))


def _widened(score: Tensor) -> Tensor:
    """Returns scores whose squares neither overflow nor vanish: in fp64, or of 1 at most."""
    if has_double(score):
        return score.double()
    return score / score.amax().clamp(min=torch.finfo(score.dtype).tiny)
