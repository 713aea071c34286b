"""Ops that make, join and part tensors."""

from __future__ import annotations

from itertools import accumulate
from math import ceil
from typing import Any

import numpy as np

from mlpass.runtime.kernels.arguments import flag, integer, ints
from mlpass.runtime.kernels.indexing import axis_of
from mlpass.runtime.kernels.registry import kernel

Array = Any


@kernel("fill")
def fill(xp: Any, *, shape: Any, value: Any = 0.0) -> Array:
    """() -> shape, all of it `value`."""
    value, dtype = _scalar(xp, value)
    return xp.full(tuple(ints(shape)), value, dtype=dtype)


@kernel("fill_like", since=16)
def fill_like(xp: Any, *, ref_tensor: Array, value: Any = 0.0) -> Array:
    """ref_tensor (...) -> (...), all of it `value`, and of value's type."""
    value, dtype = _scalar(xp, value)
    return xp.full(tuple(ref_tensor.shape), value, dtype=dtype, device=ref_tensor.device)


@kernel("range_1d")
def range_1d(xp: Any, *, end: Any, start: Any, step: Any) -> Array:
    """() -> start, start + step, ... up to end, without it."""
    start, dtype = _scalar(xp, start)
    end, step = _scalar(xp, end)[0], _scalar(xp, step)[0]
    count = max(0, ceil((end - start) / step))
    # Not `arange(start, end, step)`: how many items that has is left to its rounding.
    return xp.arange(count, dtype=dtype) * step + start


@kernel("one_hot")
def one_hot(
    xp: Any,
    *,
    indices: Array,
    one_hot_vector_size: Any,
    axis: Any = -1,
    on_value: Any = 1,
    off_value: Any = 0,
) -> Array:
    """indices (...) -> (..., size, ...), the new axis at `axis`: on at the index, off elsewhere."""
    (on, on_dtype), (off, _) = _scalar(xp, on_value), _scalar(xp, off_value)
    axis = axis_of(integer(axis), indices.ndim + 1)
    along = [1] * (indices.ndim + 1)
    along[axis] = integer(one_hot_vector_size)
    places = xp.arange(along[axis], dtype=xp.int64, device=indices.device)
    hot = xp.expand_dims(xp.astype(indices, xp.int64), axis=axis) == xp.reshape(
        places, tuple(along)
    )
    like = {"dtype": on_dtype, "device": indices.device}
    return xp.where(hot, xp.full((), on, **like), xp.full((), off, **like))


@kernel("band_part")
def band_part(xp: Any, *, x: Array, lower: Any = -1, upper: Any = -1) -> Array:
    """x (..., rows, columns) -> zero but on so many diagonals below and above the main one."""
    lower, upper = integer(lower), integer(upper)
    rows = xp.arange(x.shape[-2], dtype=xp.int64, device=x.device)[:, None]
    below = rows - xp.arange(x.shape[-1], dtype=xp.int64, device=x.device)
    band = xp.ones_like(below, dtype=xp.bool)
    if lower >= 0:
        band = band & (below <= lower)
    if upper >= 0:
        band = band & (-below <= upper)
    return xp.where(band, x, xp.zeros_like(x))


@kernel("cumsum")
def cumsum(
    xp: Any, *, x: Array, axis: Any = 0, exclusive: Any = False, reverse: Any = False
) -> Array:
    """x (...) -> sums along axis of what comes before, the element itself unless exclusive."""
    axis = axis_of(integer(axis), x.ndim)
    if flag(reverse):
        x = xp.flip(x, axis=axis)
    # numpy has the standard's name only since 2.1.
    running = np.cumsum if xp is np else xp.cumulative_sum
    sums = running(x, axis=axis, dtype=x.dtype)
    if flag(exclusive):
        zeros = xp.zeros_like(sums[_part(sums, axis, 0, 1)])
        sums = xp.concat([zeros, sums[_part(sums, axis, 0, x.shape[axis] - 1)]], axis=axis)
    return xp.flip(sums, axis=axis) if flag(reverse) else sums


@kernel("pad")
def pad(xp: Any, *, x: Array, pad: Any, mode: str = "constant", constant_val: Any = 0.0) -> Array:
    """x (...), pad (2 * n,) of before and after for the last n axes -> x, padded."""
    amounts = ints(pad)
    if len(amounts) % 2 or len(amounts) > 2 * x.ndim or min(amounts, default=0) < 0:
        raise ValueError(
            f"pad: must be pairs of sizes of 0 or more for the last axes of {x.ndim}. "
            f"Got {amounts}."
        )
    amounts = [0] * (2 * x.ndim - len(amounts)) + amounts
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    if not any(amounts):
        return x
    if mode == "constant":
        shape = [size + sum(pair) for size, pair in zip(x.shape, pairs, strict=True)]
        value = _scalar(xp, constant_val)[0]
        padded = xp.full(tuple(shape), value, dtype=x.dtype, device=x.device)
        inner = zip(x.shape, pairs, strict=True)
        padded[tuple(slice(before, before + size) for size, (before, _) in inner)] = x
        return padded
    if mode not in ("reflect", "replicate"):
        raise ValueError(f"mode: must be constant, reflect or replicate. Got {mode!r}.")
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            x = _pad_from_itself(xp, x, axis, before, after, mode)
    return x


@kernel("tile")
def tile(xp: Any, *, x: Array, reps: Any) -> Array:
    """x (...) -> axis i repeated reps[i] times."""
    return xp.tile(x, tuple(ints(reps)))


@kernel("shape")
def shape(xp: Any, *, x: Array) -> Array:
    """x of some rank -> its shape, int32 (rank,)."""
    return xp.asarray(list(x.shape), dtype=xp.int32, device=x.device)


@kernel("concat")
def concat(xp: Any, *, values: tuple[Array, ...], axis: Any, interleave: Any = False) -> Array:
    """values, each (..., size, ...) -> joined along axis, one after the other or in turns."""
    if not values[0].ndim:
        return xp.stack(values)
    axis = axis_of(integer(axis), values[0].ndim)
    if not flag(interleave):
        return xp.concat(values, axis=axis)
    joined = list(values[0].shape)
    joined[axis] *= len(values)
    return xp.reshape(xp.stack(values, axis=axis + 1), tuple(joined))


@kernel("split")
def split(
    xp: Any, *, x: Array, axis: Any, num_splits: Any = None, split_sizes: Any = None
) -> tuple[Array, ...]:
    """x (..., size, ...) -> its parts along axis: as many, equal ones, or of such sizes."""
    axis = axis_of(integer(axis), x.ndim)
    if split_sizes is not None:
        sizes = ints(split_sizes)
    elif num_splits is not None:
        sizes = [x.shape[axis] // integer(num_splits)] * integer(num_splits)
    else:
        raise ValueError("split: needs num_splits or split_sizes.")
    if sum(sizes) != x.shape[axis]:
        raise ValueError(f"split: sizes {sizes} do not add up to {x.shape[axis]}.")
    ends = accumulate(sizes)
    return tuple(x[_part(x, axis, end - size, end)] for size, end in zip(sizes, ends, strict=True))


@kernel("stack")
def stack(xp: Any, *, values: tuple[Array, ...], axis: Any) -> Array:
    """values, each (...) -> joined along a new axis."""
    return xp.stack(values, axis=integer(axis))


@kernel("identity")
def identity(xp: Any, *, x: Any) -> Any:
    """x -> x: a tensor, a list or a dictionary."""
    return x


def _scalar(xp: Any, value: Any) -> tuple[Any, Any]:
    """Returns a single value as Python number, and the dtype that it has in MIL."""
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, bool):
        return item, xp.bool
    return item, xp.int32 if isinstance(item, int) else xp.float32


def _part(x: Array, axis: int, begin: int, end: int) -> tuple[slice, ...]:
    index = [slice(None)] * x.ndim
    index[axis] = slice(begin, end)
    return tuple(index)


def _pad_from_itself(xp: Any, x: Array, axis: int, before: int, after: int, mode: str) -> Array:
    last = x.shape[axis] - 1
    if mode == "reflect" and max(before, after) > last:
        raise ValueError(f"pad: reflects at most {last} on axis {axis}. Got {before} and {after}.")
    places = xp.arange(-before, last + 1 + after, dtype=xp.int64, device=x.device)
    if mode == "reflect":
        places = xp.abs(places)
        places = last - xp.abs(last - places)
    return xp.take(x, xp.clip(places, 0, last), axis=axis)
