"""Ops that make, join and part tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import ceil
from typing import Any, TypeVar

import numpy as np

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.indexing import axis_of
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.room import check_room

Made = TypeVar("Made")


@kernel("fill")
def fill(xp: Namespace, *, shape: tuple[int, ...], value: Array | float = 0.0) -> Array:
    """() -> shape, all of it `value`."""
    number, dtype = _scalar(xp, value)
    check_room(shape, dtype)
    return xp.full(shape, number, dtype=dtype)


@kernel("fill_like", since=16)
def fill_like(xp: Namespace, *, ref_tensor: Array, value: Array | float = 0.0) -> Array:
    """ref_tensor (...) -> (...), all of it `value`, and of value's type."""
    number, dtype = _scalar(xp, value)
    return xp.full(tuple(ref_tensor.shape), number, dtype=dtype, device=ref_tensor.device)


@kernel("range_1d")
def range_1d(xp: Namespace, *, end: Array, start: Array, step: Array) -> Array:
    """() -> start, start + step, ... up to end, without it."""
    first, dtype = _scalar(xp, start)
    last, stride = _scalar(xp, end)[0], _scalar(xp, step)[0]
    count = max(0, ceil((last - first) / stride))
    check_room((count,), dtype)
    # Not `arange(start, end, step)`: how many items that has is left to its rounding.
    return xp.arange(count, dtype=dtype) * stride + first


@kernel("one_hot")
def one_hot(
    xp: Namespace,
    *,
    indices: Array,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Array | float = 1,
    off_value: Array | float = 0,
) -> Array:
    """indices (...) -> (..., size, ...), the new axis at `axis`: on at the index, off elsewhere."""
    (on, on_dtype), (off, _) = _scalar(xp, on_value), _scalar(xp, off_value)
    axis = axis_of(axis, indices.ndim + 1)
    along = [1] * (indices.ndim + 1)
    along[axis] = one_hot_vector_size
    check_room((*indices.shape, one_hot_vector_size), on_dtype)
    places = xp.arange(along[axis], dtype=xp.int64, device=indices.device)
    hot = xp.expand_dims(xp.astype(indices, xp.int64), axis=axis) == xp.reshape(
        places, tuple(along)
    )
    like = {"dtype": on_dtype, "device": indices.device}
    return xp.where(hot, xp.full((), on, **like), xp.full((), off, **like))


@kernel("band_part")
def band_part(xp: Namespace, *, x: Array, lower: int = -1, upper: int = -1) -> Array:
    """x (..., rows, columns) -> zero but on so many diagonals below and above the main one."""
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
    xp: Namespace, *, x: Array, axis: int = 0, exclusive: bool = False, reverse: bool = False
) -> Array:
    """x (...) -> sums along axis of what comes before, the element itself unless exclusive."""
    axis = axis_of(axis, x.ndim)
    if reverse:
        x = xp.flip(x, axis=axis)
    # numpy has the standard's name only since 2.1.
    running = getattr(xp, "cumsum" if xp is np else "cumulative_sum")
    sums = running(x, axis=axis, dtype=x.dtype)
    if exclusive:
        zeros = xp.zeros_like(sums[_part(sums, axis, 0, 1)])
        sums = xp.concat([zeros, sums[_part(sums, axis, 0, x.shape[axis] - 1)]], axis=axis)
    return xp.flip(sums, axis=axis) if reverse else sums


@kernel("pad")
def pad(
    xp: Namespace,
    *,
    x: Array,
    pad: tuple[int, ...],
    mode: str = "constant",
    constant_val: Array | float = 0.0,
) -> Array:
    """x (...), pad (2 * n,) of before and after for the last n axes -> x, padded."""
    if len(pad) % 2 or len(pad) > 2 * x.ndim or min(pad, default=0) < 0:
        raise ValueError(
            f"pad: must be pairs of sizes of 0 or more for the last axes of {x.ndim}. "
            f"Got {list(pad)}."
        )
    amounts = (0,) * (2 * x.ndim - len(pad)) + pad
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    check_room((size + sum(pair) for size, pair in zip(x.shape, pairs, strict=True)), x.dtype)
    if not any(amounts):
        return x
    if mode == "constant":
        shape = [size + sum(pair) for size, pair in zip(x.shape, pairs, strict=True)]
        value = _scalar(xp, constant_val)[0]
        padded = xp.full(shape, value, dtype=x.dtype, device=x.device)
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
def tile(xp: Namespace, *, x: Array, reps: tuple[int, ...]) -> Array:
    """x (...) -> axis i repeated reps[i] times."""
    check_room((*x.shape, *reps), x.dtype)
    return xp.tile(x, reps)


@kernel("shape")
def shape(xp: Namespace, *, x: Array) -> Array:
    """x of some rank -> its shape, int32 (rank,)."""
    return xp.asarray(list(x.shape), dtype=xp.int32, device=x.device)


@kernel("concat")
def concat(xp: Namespace, *, values: Sequence[Array], axis: int, interleave: bool = False) -> Array:
    """values, each (..., size, ...) -> joined along axis, one after the other or in turns."""
    if not values[0].ndim:
        return xp.stack(values)
    axis = axis_of(axis, values[0].ndim)
    if not interleave:
        return xp.concat(values, axis=axis)
    joined = list(values[0].shape)
    joined[axis] *= len(values)
    return xp.reshape(xp.stack(values, axis=axis + 1), tuple(joined))


@kernel("split")
def split(
    xp: Namespace,
    *,
    x: Array,
    axis: int,
    num_splits: int | None = None,
    split_sizes: tuple[int, ...] | None = None,
) -> tuple[Array, ...]:
    """x (..., size, ...) -> its parts along axis: as many, equal ones, or of such sizes."""
    axis = axis_of(axis, x.ndim)
    if split_sizes is not None:
        sizes = split_sizes
    elif num_splits is not None:
        sizes = (x.shape[axis] // num_splits,) * num_splits
    else:
        raise ValueError("split: needs num_splits or split_sizes.")
    if sum(sizes) != x.shape[axis]:
        raise ValueError(f"split: sizes {list(sizes)} do not add up to {x.shape[axis]}.")
    ends = accumulate(sizes)
    return tuple(x[_part(x, axis, end - size, end)] for size, end in zip(sizes, ends, strict=True))


@kernel("stack")
def stack(xp: Namespace, *, values: Sequence[Array], axis: int) -> Array:
    """values, each (...) -> joined along a new axis."""
    return xp.stack(values, axis=axis)


@kernel("identity")
def identity(xp: Namespace, *, x: Made) -> Made:
    """x -> x: a tensor, a list or a dictionary."""
    return x


def _scalar(xp: Namespace, value: Array | float) -> tuple[float, object]:
    """Returns a single value as Python number, and the dtype that it has in MIL."""
    single: Any = value
    item: float = single.item() if hasattr(single, "item") else single
    if isinstance(item, bool):
        return item, xp.bool
    return item, xp.int32 if isinstance(item, int) else xp.float32


def _part(x: Array, axis: int, begin: int, end: int) -> tuple[slice, ...]:
    index = [slice(None)] * x.ndim
    index[axis] = slice(begin, end)
    return tuple(index)


def _pad_from_itself(
    xp: Namespace, x: Array, axis: int, before: int, after: int, mode: str
) -> Array:
    last = x.shape[axis] - 1
    if mode == "reflect" and max(before, after) > last:
        raise ValueError(f"pad: reflects at most {last} on axis {axis}. Got {before} and {after}.")
    places = xp.arange(-before, last + 1 + after, dtype=xp.int64, device=x.device)
    if mode == "reflect":
        places = xp.abs(places)
        places = last - xp.abs(last - places)
    return xp.take(x, xp.clip(places, 0, last), axis=axis)
