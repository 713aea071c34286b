"""Gathers: elements by index. How indices are read is in `indexing.py`."""

from __future__ import annotations

from math import prod

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.indexing import (
    WRAP,
    axis_of,
    read_indices,
    read_rows,
    reading_of,
    take,
    take_along,
)
from mlpass.runtime.kernels.registry import kernel


@kernel("gather")
def gather_ios13(xp: Namespace, *, x: Array, indices: Array, axis: int = 0) -> Array:
    """x (outer..., size, inner...), indices (places...) -> (outer..., places..., inner...)."""
    return _gather(xp, x, indices, axis, 0, WRAP)


@kernel("gather", since=16)
def gather_ios16(
    xp: Namespace, *, x: Array, indices: Array, axis: int = 0, batch_dims: int = 0
) -> Array:
    """x (batch..., outer..., size, inner...), indices (batch..., places...) -> as in iOS13."""
    return _gather(xp, x, indices, axis, batch_dims, WRAP)


@kernel("gather", since=17)
def gather(
    xp: Namespace,
    *,
    x: Array,
    indices: Array,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool = False,
) -> Array:
    """As in iOS16, no index negative."""
    reading = reading_of(validate_indices)
    return _gather(xp, x, indices, axis, batch_dims, reading)


@kernel("gather_along_axis")
def gather_along_axis_ios13(xp: Namespace, *, x: Array, indices: Array, axis: int = 0) -> Array:
    """x (..., size, ...), indices of its shape but for axis -> x at indices, of their shape."""
    return _gather_along(xp, x, indices, axis, WRAP)


@kernel("gather_along_axis", since=17)
def gather_along_axis(
    xp: Namespace, *, x: Array, indices: Array, axis: int = 0, validate_indices: bool = False
) -> Array:
    """As in iOS13, no index negative."""
    return _gather_along(xp, x, indices, axis, reading_of(validate_indices))


@kernel("gather_nd")
def gather_nd_ios13(xp: Namespace, *, x: Array, indices: Array) -> Array:
    """x (sizes..., inner...), indices (places..., len(sizes)) -> (places..., inner...)."""
    return _gather_nd(xp, x, indices, 0, WRAP)


@kernel("gather_nd", since=16)
def gather_nd_ios16(xp: Namespace, *, x: Array, indices: Array, batch_dims: int = 0) -> Array:
    """x (batch, sizes..., inner...), indices (batch, places..., len(sizes)) -> as in iOS13."""
    return _gather_nd(xp, x, indices, batch_dims, WRAP)


@kernel("gather_nd", since=17)
def gather_nd(
    xp: Namespace, *, x: Array, indices: Array, batch_dims: int = 0, validate_indices: bool = False
) -> Array:
    """As in iOS16, no index negative."""
    return _gather_nd(xp, x, indices, batch_dims, reading_of(validate_indices))


def _gather(
    xp: Namespace, x: Array, indices: Array, axis: int, batch_dims: int, reading: str
) -> Array:
    axis = axis_of(axis, x.ndim)
    if not 0 <= batch_dims <= min(axis, indices.ndim):
        raise ValueError(
            f"batch_dims: must be in [0, {min(axis, indices.ndim)}] for axis {axis} and indices "
            f"of rank {indices.ndim}. Got {batch_dims}."
        )
    places, inside = read_indices(xp, indices, x.shape[axis], reading)
    batch, outer, inner = x.shape[:batch_dims], x.shape[batch_dims:axis], x.shape[axis + 1 :]
    if batch_dims:
        # One row for each place on the axis of each of the batch.
        size, count = x.shape[axis], prod(indices.shape[batch_dims:])
        rows = xp.reshape(xp.moveaxis(x, axis, batch_dims), (prod(batch) * size, *outer, *inner))
        places = xp.reshape(places, (prod(batch), count)) + _starts(xp, places, batch, size)
        taken = xp.reshape(
            take(xp, rows, xp.reshape(places, (-1,)), 0), (*batch, count, *outer, *inner)
        )
        taken = xp.moveaxis(taken, batch_dims, axis)
    else:
        taken = take(xp, x, xp.reshape(places, (-1,)), axis)
    found = indices.shape[batch_dims:]
    taken = xp.reshape(taken, (*batch, *outer, *found, *inner))
    if inside is None:
        return taken
    inside = xp.reshape(inside, (*batch, *(1 for _ in outer), *found, *(1 for _ in inner)))
    return xp.where(inside, taken, xp.zeros_like(taken))


def _gather_along(xp: Namespace, x: Array, indices: Array, axis: int, reading: str) -> Array:
    axis = axis_of(axis, x.ndim)
    places, inside = read_indices(xp, indices, x.shape[axis], reading)
    taken = take_along(xp, x, places, axis)
    return taken if inside is None else xp.where(inside, taken, xp.zeros_like(taken))


def _gather_nd(xp: Namespace, x: Array, indices: Array, batch_dims: int, reading: str) -> Array:
    depth = indices.shape[-1]
    if batch_dims + depth > x.ndim:
        raise ValueError(
            f"indices: the last axis must be at most {x.ndim - batch_dims}. Got {depth}."
        )
    batch, sizes = x.shape[:batch_dims], x.shape[batch_dims : batch_dims + depth]
    inner = x.shape[batch_dims + depth :]
    rows, inside = read_rows(xp, indices, sizes, reading)
    if batch_dims:
        each = prod(rows.shape[batch_dims:])
        rows = xp.reshape(rows, (prod(batch), each)) + _starts(xp, rows, batch, prod(sizes))
    flat = xp.reshape(x, (prod(batch) * prod(sizes), *inner))
    taken = take(xp, flat, xp.reshape(rows, (-1,)), 0)
    taken = xp.reshape(taken, (*indices.shape[:-1], *inner))
    if inside is None:
        return taken
    inside = xp.reshape(inside, (*indices.shape[:-1], *(1 for _ in inner)))
    return xp.where(inside, taken, xp.zeros_like(taken))


def _starts(xp: Namespace, like: Array, batch: tuple[int, ...], size: int) -> Array:
    """Returns, for each of the batch, the number of its first row: (batch, 1)."""
    starts = xp.arange(prod(batch), dtype=xp.int64, device=like.device) * size
    return xp.reshape(starts, (-1, 1))
