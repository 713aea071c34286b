"""Slices: read and written."""

from __future__ import annotations

from typing import NamedTuple

from mlpass.arrays import Array, Namespace, copied
from mlpass.runtime.kernels.indexing import axis_of, flipped, take
from mlpass.runtime.kernels.registry import kernel


class Slices(NamedTuple):
    """A slice of an array, forwards: torch has no other.

    Attributes:
        spans: one slice for each axis, its step positive.
        backwards: the axes to flip once that is read.
        squeezed: the axes of which it takes a single place, which the result does not have.
    """

    spans: tuple[slice, ...]
    backwards: tuple[int, ...]
    squeezed: tuple[int, ...]


@kernel("slice_by_index")
def slice_by_index(
    xp: Namespace,
    *,
    x: Array,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Array:
    """x (...) -> x[begin:end:stride, ...], as Python slices; masked bounds are left out."""
    slices = _slices(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    part = x[slices.spans]
    if slices.backwards:
        part = flipped(xp, part, slices.backwards)
    return xp.squeeze(part, axis=slices.squeezed) if slices.squeezed else part


@kernel("slice_by_size")
def slice_by_size(
    xp: Namespace, *, x: Array, begin: tuple[int, ...], size: tuple[int, ...]
) -> Array:
    """x (...) -> x[begin:begin + size, ...]; a size of -1 is all that is left."""
    index = []
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        length = x.shape[axis]
        first = first + length if first < 0 else first
        last = length if count == -1 else first + count
        if not 0 <= first <= last <= length:
            raise ValueError(
                f"slice_by_size: begin {first} and size {count} are not within axis {axis} of "
                f"length {length}."
            )
        index.append(slice(first, last))
    return x[tuple(index)]


@kernel("slice_update", since=18)
def slice_update(
    xp: Namespace,
    *,
    x: Array,
    update: Array,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Array:
    """x (...), update of the shape of that slice of x (see `slice_by_index`) -> x, updated."""
    slices = _slices(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    updated = copied(x)
    shape = updated[slices.spans].shape
    expected = tuple(size for axis, size in enumerate(shape) if axis not in slices.squeezed)
    if tuple(update.shape) != expected:
        raise ValueError(
            f"update: must be of the slice's shape, {expected}. Got {tuple(update.shape)}."
        )
    update = xp.reshape(update, tuple(shape))
    if slices.backwards:
        update = flipped(xp, update, slices.backwards)
    updated[slices.spans] = update
    return updated


@kernel("sliding_windows")
def sliding_windows(xp: Namespace, *, x: Array, axis: int, size: int, stride: int = 1) -> Array:
    """x (..., length, ...) -> (..., (length - size) // stride + 1 windows, size, ...)."""
    axis = axis_of(axis, x.ndim)
    length = x.shape[axis]
    if not 0 < size <= length or stride < 1:
        raise ValueError(
            f"sliding_windows: size must be in [1, {length}] and stride positive. "
            f"Got size {size} and stride {stride}."
        )
    first = xp.arange(0, length - size + 1, stride, dtype=xp.int64, device=x.device)
    places = first[:, None] + xp.arange(size, dtype=xp.int64, device=x.device)
    windows = take(xp, x, xp.reshape(places, (-1,)), axis)
    return xp.reshape(windows, (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _slices(
    shape: tuple[int, ...],
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None,
    *masks: tuple[bool, ...] | None,
) -> Slices:
    rank = len(shape)
    steps = (1,) * rank if stride is None else stride
    given_masks = [(False,) * rank if mask is None else mask for mask in masks]
    for name, given in (("begin", begin), ("end", end), ("stride", steps)):
        if len(given) != rank:
            raise ValueError(
                f"{name}: must have one item for each of {rank} axes. Got {list(given)}."
            )
    index, backwards, squeezed = [], [], []
    for axis, (first, last, step, unbegun, unended, single) in enumerate(
        zip(begin, end, steps, *given_masks, strict=True)
    ):
        if step == 0:
            raise ValueError(f"stride: must not be 0. Got {list(steps)}.")
        if single:
            place = _place(0 if unbegun else first, shape[axis], axis)
            index.append(slice(place, place + 1))
            squeezed.append(axis)
            continue
        bounds = slice(None if unbegun else first, None if unended else last, step)
        places = range(*bounds.indices(shape[axis]))
        if not places:
            index.append(slice(0, 0))
        elif step > 0:
            index.append(slice(places[0], places[-1] + 1, step))
        else:
            index.append(slice(places[-1], places[0] + 1, -step))
            backwards.append(axis)
    return Slices(tuple(index), tuple(backwards), tuple(squeezed))


def _place(place: int, size: int, axis: int) -> int:
    if not -size <= place < size:
        raise ValueError(f"begin: must be in [{-size}, {size}) for axis {axis}. Got {place}.")
    return place % size
