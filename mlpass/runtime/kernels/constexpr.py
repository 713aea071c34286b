"""Compressed constants: `constexpr_*` ops, which make a weight from its stored parts.

Their arguments are constants, so a program runs them once, before all else, and always under numpy:
`xp` is there for the sake of the one kernel signature. Source: MIL ops `constexpr_*`, iOS16 and
iOS18.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Namespace
from mlpass.runtime.kernels.registry import kernel

Numbers = NDArray[np.number]


@kernel("constexpr_cast", since=16)
def constexpr_cast(xp: Namespace, *, source_val: Numbers, output_dtype: str) -> Numbers:
    """source_val (...) -> the same values as `output_dtype`, which is "fp32"."""
    return source_val.astype({"fp16": np.float16, "fp32": np.float32}[output_dtype])


@kernel("constexpr_affine_dequantize", since=16)
def constexpr_affine_dequantize(
    xp: Namespace, *, quantized_data: Numbers, zero_point: Numbers, scale: Numbers, axis: int
) -> Numbers:
    """quantized_data (...), zero_point and scale () or (size of axis,) -> scale * (q - zero)."""
    along = [1] * quantized_data.ndim
    along[axis] = -1
    zero_point, scale = (
        part.reshape(along) if part.ndim else part for part in map(np.asarray, (zero_point, scale))
    )
    return _shift_scale(quantized_data, scale, zero_point)


@kernel("constexpr_lut_to_dense", since=16)
def constexpr_lut_to_dense_ios16(
    xp: Namespace, *, indices: NDArray[np.uint8], lut: Numbers, shape: tuple[int, ...]
) -> Numbers:
    """indices (bytes,) of packed table rows, lut (palettes,) -> shape."""
    count, nbits = math.prod(shape), int(math.log2(lut.size))
    bits = _unpack(indices, count * nbits).reshape(count, nbits)
    rows = bits @ (1 << np.arange(nbits, dtype=np.uint8)).astype(np.uint8)
    return lut[rows].reshape(shape)


@kernel("constexpr_sparse_to_dense", since=16)
def constexpr_sparse_to_dense_ios16(
    xp: Namespace, *, nonzero_data: Numbers, mask: NDArray[np.uint8], shape: tuple[int, ...]
) -> Numbers:
    """nonzero_data (kept,), mask (bytes,) of packed bits -> shape, zeros where a bit is unset."""
    count = math.prod(shape)
    bits = _unpack(mask, count).reshape(shape)
    return _scatter(nonzero_data, bits)


@kernel("constexpr_blockwise_shift_scale", since=18)
def constexpr_blockwise_shift_scale(
    xp: Namespace, *, data: Numbers, scale: Numbers, offset: Numbers | None = None
) -> Numbers:
    """data (...), scale and offset of its rank, one for each block -> scale * (data - offset)."""
    shifts = None if offset is None else spread(offset, data.shape)
    return _shift_scale(data, spread(scale, data.shape), shifts)


@kernel("constexpr_lut_to_dense", since=18)
def constexpr_lut_to_dense(
    xp: Namespace, *, indices: Numbers, lut: Numbers, vector_axis: int | None = None
) -> Numbers:
    """indices (...), lut (blocks..., palettes, vector) -> (...), the vector axis expanded."""
    return _look_up(indices, lut, blocks_of(indices.shape, lut.shape[:-2]), vector_axis)


@kernel("constexpr_sparse_to_dense", since=18)
def constexpr_sparse_to_dense(xp: Namespace, *, nonzero_data: Numbers, mask: Numbers) -> Numbers:
    """nonzero_data (kept,), mask (...) of 0 and 1 -> (...), zeros where the mask is 0."""
    return _scatter(nonzero_data, mask)


@kernel("constexpr_lut_to_sparse", since=18)
def constexpr_lut_to_sparse(
    xp: Namespace,
    *,
    indices_mask: Numbers,
    indices_nonzero_data: Numbers,
    lut: Numbers,
    vector_axis: int | None = None,
) -> tuple[Numbers, Numbers]:
    """indices_mask (...), indices (kept,), lut (blocks..., palettes, vector) -> mask, values."""
    dense = constexpr_lut_to_dense(
        xp, indices=_scatter(indices_nonzero_data, indices_mask), lut=lut, vector_axis=vector_axis
    )
    mask = indices_mask
    if lut.shape[-1] > 1:
        mask = np.repeat(mask, lut.shape[-1], axis=vector_axis)
    return mask, dense[mask != 0]


@kernel("constexpr_sparse_blockwise_shift_scale", since=18)
def constexpr_sparse_blockwise_shift_scale(
    xp: Namespace,
    *,
    data_mask: Numbers,
    nonzero_data: Numbers,
    scale: Numbers,
    offset: Numbers | None = None,
) -> tuple[Numbers, Numbers]:
    """data_mask (...), data (kept,), scale and offset by block -> mask, scale * (data - offset)."""
    kept = data_mask != 0
    scales = spread(scale, data_mask.shape)[kept]
    shifts = None if offset is None else spread(offset, data_mask.shape)[kept]
    return data_mask, _shift_scale(nonzero_data, scales, shifts)


def _shift_scale(data: Numbers, scale: Numbers, offset: Numbers | None) -> Numbers:
    # Offsets are exact in fp32, and fp16 would round their difference.
    shifted = data.astype(np.float32)
    if offset is not None:
        shifted = shifted - offset.astype(np.float32)
    return (shifted * scale.astype(np.float32)).astype(scale.dtype)


def _unpack(packed: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Returns `count` bits; numpy would make up those that are not there."""
    if packed.size * 8 < count:
        raise ValueError(f"{packed.size} bytes are too few for {count} bits")
    return np.unpackbits(packed, count=count, bitorder="little")


def _scatter(values: Numbers, mask: Numbers) -> Numbers:
    dense = np.zeros(mask.shape, values.dtype)
    dense[mask != 0] = values
    return dense


def spread(blocks: Numbers, shape: tuple[int, ...]) -> Numbers:
    """Returns one value for each block as one for each element of `shape`."""
    for axis, size in enumerate(shape):
        if blocks.shape[axis] not in (1, size):
            blocks = np.repeat(blocks, size // blocks.shape[axis], axis=axis)
    return np.broadcast_to(blocks, shape)


def blocks_of(shape: tuple[int, ...], counts: tuple[int, ...]) -> NDArray[np.intp]:
    """Returns, for each element of `shape`, the flat number of the block it is in."""
    number = np.zeros((1,) * len(shape), np.intp)
    for axis, (size, count) in enumerate(zip(shape, counts, strict=True)):
        along = [1] * len(shape)
        along[axis] = size
        number = number * count + (np.arange(size) * count // size).reshape(along)
    return number


def _look_up(
    indices: Numbers, lut: Numbers, blocks: NDArray[np.intp], vector_axis: int | None
) -> Numbers:
    palettes, vector = lut.shape[-2:]
    rows: Numbers = lut.reshape(-1, palettes, vector)[blocks, indices]  # (..., vector)
    if vector == 1:
        return rows[..., 0]
    if vector_axis is None:
        raise ValueError("vector_axis: a palette of vectors needs one")
    axis = vector_axis % indices.ndim
    moved = np.moveaxis(rows, -1, axis + 1)
    shape = list(indices.shape)
    shape[axis] *= vector
    return moved.reshape(shape)
