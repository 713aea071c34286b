"""Compressed constants: `constexpr_*` ops, which make a weight from its stored parts.

Their arguments are constants, so a program runs them once, before all else, and always under numpy:
`xp` is there for the sake of the one kernel signature. Source: MIL ops `constexpr_*`, iOS16 and
iOS18.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlpass.runtime.kernels.arguments import integer
from mlpass.runtime.kernels.registry import kernel

Array = Any


@kernel("constexpr_cast", since=16)
def constexpr_cast(xp: Any, *, source_val: Array, output_dtype: str) -> Array:
    """source_val (...) -> the same values as `output_dtype`, which is "fp32"."""
    return source_val.astype({"fp16": np.float16, "fp32": np.float32}[output_dtype])


@kernel("constexpr_affine_dequantize", since=16)
def constexpr_affine_dequantize(
    xp: Any, *, quantized_data: Array, zero_point: Array, scale: Array, axis: Array
) -> Array:
    """quantized_data (...), zero_point and scale () or (size of axis,) -> scale * (q - zero)."""
    along = [1] * quantized_data.ndim
    along[integer(axis)] = -1
    zero_point, scale = (
        part.reshape(along) if part.ndim else part for part in map(np.asarray, (zero_point, scale))
    )
    return _shift_scale(quantized_data, scale, zero_point)


@kernel("constexpr_lut_to_dense", since=16)
def constexpr_lut_to_dense_ios16(xp: Any, *, indices: Array, lut: Array, shape: Array) -> Array:
    """indices (bytes,) of packed table rows, lut (palettes,) -> shape."""
    count, nbits = math.prod(shape.tolist()), int(math.log2(lut.size))
    bits = _unpack(indices, count * nbits).reshape(count, nbits)
    rows = bits @ (1 << np.arange(nbits, dtype=np.uint8)).astype(np.uint8)
    return lut[rows].reshape(shape.tolist())


@kernel("constexpr_sparse_to_dense", since=16)
def constexpr_sparse_to_dense_ios16(
    xp: Any, *, nonzero_data: Array, mask: Array, shape: Array
) -> Array:
    """nonzero_data (kept,), mask (bytes,) of packed bits -> shape, zeros where a bit is unset."""
    count = math.prod(shape.tolist())
    bits = _unpack(mask, count).reshape(shape.tolist())
    return _scatter(nonzero_data, bits)


@kernel("constexpr_blockwise_shift_scale", since=18)
def constexpr_blockwise_shift_scale(
    xp: Any, *, data: Array, scale: Array, offset: Array | None = None
) -> Array:
    """data (...), scale and offset of its rank, one for each block -> scale * (data - offset)."""
    scale, offset = _spread(scale, data.shape), _spread(offset, data.shape)
    return _shift_scale(data, scale, offset)


@kernel("constexpr_lut_to_dense", since=18)
def constexpr_lut_to_dense(
    xp: Any, *, indices: Array, lut: Array, vector_axis: Array | None = None
) -> Array:
    """indices (...), lut (blocks..., palettes, vector) -> (...), the vector axis expanded."""
    return _look_up(indices, lut, _blocks_of(indices.shape, lut.shape[:-2]), vector_axis)


@kernel("constexpr_sparse_to_dense", since=18)
def constexpr_sparse_to_dense(xp: Any, *, nonzero_data: Array, mask: Array) -> Array:
    """nonzero_data (kept,), mask (...) of 0 and 1 -> (...), zeros where the mask is 0."""
    return _scatter(nonzero_data, mask)


@kernel("constexpr_lut_to_sparse", since=18)
def constexpr_lut_to_sparse(
    xp: Any,
    *,
    indices_mask: Array,
    indices_nonzero_data: Array,
    lut: Array,
    vector_axis: Array | None = None,
) -> tuple[Array, Array]:
    """indices_mask (...), indices (kept,), lut (blocks..., palettes, vector) -> mask, values."""
    dense = constexpr_lut_to_dense(
        xp, indices=_scatter(indices_nonzero_data, indices_mask), lut=lut, vector_axis=vector_axis
    )
    mask = indices_mask
    if lut.shape[-1] > 1:
        mask = np.repeat(mask, lut.shape[-1], axis=integer(vector_axis))
    return mask, dense[mask != 0]


@kernel("constexpr_sparse_blockwise_shift_scale", since=18)
def constexpr_sparse_blockwise_shift_scale(
    xp: Any, *, data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, Array]:
    """data_mask (...), data (kept,), scale and offset by block -> mask, scale * (data - offset)."""
    kept = data_mask != 0
    scale, offset = _spread(scale, data_mask.shape), _spread(offset, data_mask.shape)
    return data_mask, _shift_scale(
        nonzero_data, scale[kept], None if offset is None else offset[kept]
    )


def _shift_scale(data: Array, scale: Array, offset: Array | None) -> Array:
    # Offsets are exact in fp32, and fp16 would round their difference.
    shifted = data.astype(np.float32)
    if offset is not None:
        shifted = shifted - offset.astype(np.float32)
    return (shifted * scale.astype(np.float32)).astype(scale.dtype)


def _unpack(packed: Array, count: int) -> Array:
    """Returns `count` bits; numpy would make up those that are not there."""
    if packed.size * 8 < count:
        raise ValueError(f"{packed.size} bytes are too few for {count} bits")
    return np.unpackbits(packed, count=count, bitorder="little")


def _scatter(values: Array, mask: Array) -> Array:
    dense = np.zeros(mask.shape, values.dtype)
    dense[mask != 0] = values
    return dense


def _spread(blocks: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Returns one value for each block as one for each element of `shape`."""
    if blocks is None:
        return None
    for axis, size in enumerate(shape):
        if blocks.shape[axis] not in (1, size):
            blocks = np.repeat(blocks, size // blocks.shape[axis], axis=axis)
    return np.broadcast_to(blocks, shape)


def _blocks_of(shape: tuple[int, ...], counts: tuple[int, ...]) -> Array:
    """Returns, for each element of `shape`, the flat number of the block it is in."""
    number = np.zeros((1,) * len(shape), np.intp)
    for axis, (size, count) in enumerate(zip(shape, counts, strict=True)):
        along = [1] * len(shape)
        along[axis] = size
        number = number * count + (np.arange(size) * count // size).reshape(along)
    return number


def _look_up(indices: Array, lut: Array, blocks: Array, vector_axis: Array | None) -> Array:
    palettes, vector = lut.shape[-2:]
    rows = lut.reshape(-1, palettes, vector)[blocks, indices]  # (..., vector)
    if vector == 1:
        return rows[..., 0]
    axis = integer(vector_axis) % indices.ndim
    moved = np.moveaxis(rows, -1, axis + 1)
    shape = list(indices.shape)
    shape[axis] *= vector
    return moved.reshape(shape)
