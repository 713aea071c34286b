"""Scatters: elements combined with updates by index. How indices are read is in `indexing.py`."""

from __future__ import annotations

from math import prod

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.indexing import (
    WRAP,
    axis_of,
    combine_rows,
    read_indices,
    read_rows,
    reading_of,
)
from mlpass.runtime.kernels.registry import kernel


@kernel("scatter")
def scatter_ios13(
    xp: Namespace, *, data: Array, indices: Array, updates: Array, axis: int = 0, mode: str = "add"
) -> Array:
    """data (outer..., size, inner...), updates (outer..., indices..., inner...) -> like data."""
    return _scatter(xp, data, indices, updates, axis, mode, WRAP)


@kernel("scatter", since=17)
def scatter(
    xp: Namespace,
    *,
    data: Array,
    indices: Array,
    updates: Array,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Array:
    """As in iOS13, no index negative."""
    reading = reading_of(validate_indices)
    return _scatter(xp, data, indices, updates, axis, mode, reading)


@kernel("scatter_along_axis")
def scatter_along_axis_ios13(
    xp: Namespace, *, data: Array, indices: Array, updates: Array, axis: int = 0, mode: str = "add"
) -> Array:
    """data (..., size, ...), indices and updates of its shape but for axis -> like data."""
    return _scatter_along(xp, data, indices, updates, axis, mode, WRAP)


@kernel("scatter_along_axis", since=17)
def scatter_along_axis(
    xp: Namespace,
    *,
    data: Array,
    indices: Array,
    updates: Array,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Array:
    """As in iOS13, no index negative."""
    reading = reading_of(validate_indices)
    return _scatter_along(xp, data, indices, updates, axis, mode, reading)


@kernel("scatter_nd")
def scatter_nd_ios13(
    xp: Namespace, *, data: Array, indices: Array, updates: Array, mode: str = "add"
) -> Array:
    """data (sizes..., inner...), indices (places..., len(sizes)), updates (places..., inner...)."""
    return _scatter_nd(xp, data, indices, updates, mode, WRAP)


@kernel("scatter_nd", since=17)
def scatter_nd(
    xp: Namespace,
    *,
    data: Array,
    indices: Array,
    updates: Array,
    mode: str = "add",
    validate_indices: bool = False,
) -> Array:
    """As in iOS13, no index negative."""
    return _scatter_nd(xp, data, indices, updates, mode, reading_of(validate_indices))


def _scatter(
    xp: Namespace, data: Array, indices: Array, updates: Array, axis: int, mode: str, reading: str
) -> Array:
    axis = axis_of(axis, data.ndim)
    _expect(updates, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))
    rows, inside = read_indices(xp, indices, data.shape[axis], reading)
    moved = xp.moveaxis(data, axis, 0)
    one_axis = (*data.shape[:axis], prod(indices.shape), *data.shape[axis + 1 :])
    updates = xp.moveaxis(xp.reshape(updates, one_axis), axis, 0)
    combined = _combine(xp, moved, moved.shape[:1], rows, inside, updates, mode)
    return xp.moveaxis(combined, 0, axis)


def _scatter_along(
    xp: Namespace, data: Array, indices: Array, updates: Array, axis: int, mode: str, reading: str
) -> Array:
    axis = axis_of(axis, data.ndim)
    _expect(updates, indices.shape)
    places, inside = read_indices(xp, indices, data.shape[axis], reading)
    moved = xp.moveaxis(data, axis, 0)
    # Each element is a row of one: its place on the axis, then its place in all the others.
    others = xp.reshape(
        xp.arange(prod(moved.shape[1:]), dtype=xp.int64, device=places.device), moved.shape[1:]
    )
    rows = xp.moveaxis(places, axis, 0) * prod(moved.shape[1:]) + others
    inside = None if inside is None else xp.moveaxis(inside, axis, 0)
    updates = xp.moveaxis(updates, axis, 0)
    combined = _combine(xp, moved, moved.shape, rows, inside, updates, mode)
    return xp.moveaxis(combined, 0, axis)


def _scatter_nd(
    xp: Namespace, data: Array, indices: Array, updates: Array, mode: str, reading: str
) -> Array:
    depth = indices.shape[-1]
    if depth > data.ndim:
        raise ValueError(f"indices: the last axis must be at most {data.ndim}. Got {depth}.")
    _expect(updates, (*indices.shape[:-1], *data.shape[depth:]))
    rows, inside = read_rows(xp, indices, data.shape[:depth], reading)
    return _combine(xp, data, data.shape[:depth], rows, inside, updates, mode)


def _combine(
    xp: Namespace,
    data: Array,
    sizes: tuple[int, ...],
    rows: Array,
    inside: Array | None,
    updates: Array,
    mode: str,
) -> Array:
    """data (sizes..., inner...), rows (...) in [0, prod(sizes)), updates (..., inner...)."""
    inner = prod(data.shape[len(sizes) :])
    updates = xp.reshape(updates, (prod(rows.shape), inner))
    rows = xp.reshape(rows, (-1,))
    if inside is not None:
        kept = xp.nonzero(xp.reshape(inside, (-1,)))[0]
        rows, updates = xp.take(rows, kept, axis=0), xp.take(updates, kept, axis=0)
    flat = xp.reshape(data, (prod(sizes), inner))
    return xp.reshape(combine_rows(xp, flat, rows, updates, mode), data.shape)


def _expect(updates: Array, shape: tuple[int, ...]) -> None:
    if tuple(updates.shape) != tuple(shape):
        raise ValueError(f"updates: must be of shape {tuple(shape)}. Got {tuple(updates.shape)}.")
