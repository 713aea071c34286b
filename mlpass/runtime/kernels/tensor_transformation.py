"""Ops that move elements and compute nothing: shapes, axes, blocks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.indexing import axis_of, flipped, take_along
from mlpass.runtime.kernels.registry import kernel


@kernel("reshape")
def reshape_ios13(xp: Namespace, *, x: Array, shape: tuple[int, ...]) -> Array:
    """x (...) -> shape; -1 is what is left, 0 is x's size on the same axis, of as many axes."""
    if 0 in shape and len(shape) != x.ndim:
        raise ValueError(f"shape: with a 0 it must have x's rank, {x.ndim}. Got {list(shape)}.")
    inherited = [size or x.shape[axis] for axis, size in enumerate(shape)]
    return _reshape(xp, x, inherited)


@kernel("reshape", since=17)
def reshape(xp: Namespace, *, x: Array, shape: tuple[int, ...]) -> Array:
    """x (...) -> shape; -1 is what is left, 0 is x's size on that axis from the last, or 1."""
    padded = [1] * (len(shape) - x.ndim) + list(x.shape)
    inherited = padded[len(padded) - len(shape) :]
    return _reshape(xp, x, [size or own for size, own in zip(shape, inherited, strict=True)])


@kernel("reshape_like", since=16)
def reshape_like(
    xp: Namespace,
    *,
    x: Array,
    ref_tensors: Sequence[Array],
    begins: Sequence[int],
    ends: Sequence[int],
    end_masks: Sequence[bool],
) -> Array:
    """x (...) -> the axes [begin, end) of each reference, one after the other."""
    shape: list[int] = []
    for reference, begin, end, end_mask in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += reference.shape[begin : None if end_mask else end]
    return _reshape(xp, x, shape)


@kernel("flatten2d")
def flatten2d(xp: Namespace, *, x: Array, axis: int = 1) -> Array:
    """x (before..., after...), after from axis on -> (before, after)."""
    return xp.reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


@kernel("expand_dims")
def expand_dims(xp: Namespace, *, x: Array, axes: tuple[int, ...]) -> Array:
    """x (...) -> with an axis of size 1 at each of `axes`, counted in the result."""
    rank = x.ndim + len(axes)
    places = sorted(axis_of(axis, rank) for axis in axes)
    shape = list(x.shape)
    for place in places:
        shape.insert(place, 1)
    return xp.reshape(x, tuple(shape))


@kernel("squeeze")
def squeeze(xp: Namespace, *, x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """x (...) -> without those of `axes`, or of all, that have size 1."""
    chosen = range(x.ndim) if axes is None else [axis_of(axis, x.ndim) for axis in axes]
    shape = [size for axis, size in enumerate(x.shape) if size != 1 or axis not in chosen]
    return xp.reshape(x, tuple(shape))


@kernel("transpose")
def transpose(xp: Namespace, *, x: Array, perm: tuple[int, ...]) -> Array:
    """x (...) -> axis i is x's axis perm[i]."""
    axes = tuple(axis_of(axis, x.ndim) for axis in perm)
    return xp.permute_dims(x, axes) if x.ndim else x


@kernel("reverse")
def reverse(xp: Namespace, *, x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """x (...) -> backwards along `axes`, or along all."""
    return flipped(xp, x, tuple(range(x.ndim) if axes is None else axes))


@kernel("reverse_sequence")
def reverse_sequence(
    xp: Namespace, *, x: Array, lengths: Array, seq_axis: int = 0, batch_axis: int = 0
) -> Array:
    """x (..., batch, ..., time, ...), lengths (batch,) -> its first `lengths` times backwards."""
    seq_axis, batch_axis = axis_of(seq_axis, x.ndim), axis_of(batch_axis, x.ndim)
    along_time, along_batch = [1] * x.ndim, [1] * x.ndim
    along_time[seq_axis], along_batch[batch_axis] = x.shape[seq_axis], x.shape[batch_axis]
    times = xp.arange(x.shape[seq_axis], dtype=xp.int64, device=x.device)
    times = xp.reshape(times, tuple(along_time))
    lengths = xp.reshape(xp.astype(lengths, xp.int64), tuple(along_batch))
    places = xp.where(times < lengths, lengths - 1 - times, times)
    return take_along(xp, x, xp.broadcast_to(places, x.shape), seq_axis)


@kernel("depth_to_space")
def depth_to_space(xp: Namespace, *, x: Array, block_size: int) -> Array:
    """x (n, block * block * c, h, w) -> (n, c, h * block, w * block); blocks are outer channels."""
    n, depth, height, width = x.shape
    block = block_size
    c = depth // (block * block)
    split = xp.reshape(x, (n, block, block, c, height, width))
    joined = xp.permute_dims(split, (0, 3, 4, 1, 5, 2))
    return xp.reshape(joined, (n, c, height * block, width * block))


@kernel("space_to_depth")
def space_to_depth(xp: Namespace, *, x: Array, block_size: int) -> Array:
    """x (n, c, h * block, w * block) -> (n, block * block * c, h, w): inverts `depth_to_space`."""
    n, c, height, width = x.shape
    block = block_size
    split = xp.reshape(x, (n, c, height // block, block, width // block, block))
    joined = xp.permute_dims(split, (0, 3, 5, 1, 2, 4))
    return xp.reshape(joined, (n, c * block * block, height // block, width // block))


@kernel("pixel_shuffle")
def pixel_shuffle(xp: Namespace, *, x: Array, upscale_factor: int) -> Array:
    """x (n, c * f * f, h, w) -> (n, c, h * f, w * f); blocks are inner channels, as in torch."""
    n, depth, height, width = x.shape
    f = upscale_factor
    c = depth // (f * f)
    split = xp.reshape(x, (n, c, f, f, height, width))
    joined = xp.permute_dims(split, (0, 1, 4, 2, 5, 3))
    return xp.reshape(joined, (n, c, height * f, width * f))


@kernel("pixel_unshuffle", since=16)
def pixel_unshuffle(xp: Namespace, *, x: Array, downscale_factor: int) -> Array:
    """x (n, c, h * f, w * f) -> (n, c * f * f, h, w): inverts `pixel_shuffle`."""
    n, c, height, width = x.shape
    f = downscale_factor
    split = xp.reshape(x, (n, c, height // f, f, width // f, f))
    joined = xp.permute_dims(split, (0, 1, 3, 5, 2, 4))
    return xp.reshape(joined, (n, c * f * f, height // f, width // f))


@kernel("space_to_batch")
def space_to_batch(
    xp: Namespace, *, x: Array, block_shape: tuple[int, ...], paddings: tuple[tuple[int, int], ...]
) -> Array:
    """x (n, c, h, w), padded with zeros -> (by * bx * n, c, h / by, w / bx); blocks are outer."""
    (n, c, h, w), (by, bx) = x.shape, block_shape
    (top, bottom), (left, right) = paddings
    height, width = h + top + bottom, w + left + right
    padded = x
    if (height, width) != (h, w):
        padded = xp.zeros((n, c, height, width), dtype=x.dtype, device=x.device)
        padded[:, :, top : top + h, left : left + w] = x
    split = xp.reshape(padded, (n, c, height // by, by, width // bx, bx))
    joined = xp.permute_dims(split, (3, 5, 0, 1, 2, 4))
    return xp.reshape(joined, (by * bx * n, c, height // by, width // bx))


@kernel("batch_to_space")
def batch_to_space(
    xp: Namespace, *, x: Array, block_shape: tuple[int, ...], crops: tuple[tuple[int, int], ...]
) -> Array:
    """x (by * bx * n, c, h, w) -> (n, c, h * by, w * bx), cropped: inverts `space_to_batch`."""
    (batch, c, h, w), (by, bx) = x.shape, block_shape
    n = batch // (by * bx)
    (top, bottom), (left, right) = crops
    split = xp.reshape(x, (by, bx, n, c, h, w))
    joined = xp.permute_dims(split, (2, 3, 4, 0, 5, 1))
    whole = xp.reshape(joined, (n, c, h * by, w * bx))
    return whole[:, :, top : h * by - bottom, left : w * bx - right]


def _reshape(xp: Namespace, x: Array, sizes: list[int]) -> Array:
    """Returns `x` in the shape `sizes`, where one may be -1."""
    total, known = prod(x.shape), prod(size for size in sizes if size != -1)
    shape = [total // max(known, 1) if size == -1 else size for size in sizes]
    if sizes.count(-1) > 1 or prod(shape) != total:
        raise ValueError(f"shape: {tuple(x.shape)} cannot become {sizes}.")
    return xp.reshape(x, tuple(shape))
