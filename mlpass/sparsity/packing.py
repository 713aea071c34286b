"""Keep mask and weight to packed mask bits and nonzero data, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.parallel import map_slabs, slab_number


def zero_out(weight: NDArray[np.generic], keep: NDArray[np.bool_]) -> NDArray[np.generic]:
    """Returns `weight` with +0 where `keep` is False and every other element bit-identical."""
    result = empty(weight.shape, weight.dtype)
    np.copyto(result, weight)
    np.copyto(result, 0, where=~keep)
    return result


def mark(weight: NDArray[np.generic], keep: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Returns the mask bits (least significant first) of what `pack` would store.

    Args:
        weight: any shape, C-contiguous.
        keep: the same shape, True = kept; it is overwritten with what is stored.
    """
    stored = keep.reshape(-1)
    _mark(weight, stored)
    return np.packbits(stored, bitorder="little")


def pack(
    weight: NDArray[np.generic], keep: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
    """Returns the mask bits (least significant first) and the kept data, both 1-D.

    An element that is kept but zero is not stored: it decodes to the same value without.

    Args:
        weight: any shape, C-contiguous.
        keep: the same shape, True = kept; it is overwritten with what is stored.
    """
    stored = keep.reshape(-1)  # a copy, where the mask is in another order
    counts = _mark(weight, stored)
    return np.packbits(stored, bitorder="little"), _gathered(weight, stored, counts)


def stored_elements(
    weight: NDArray[np.generic], mask: NDArray[np.uint8], *, dense: bool
) -> NDArray[np.generic]:
    """Returns the elements of a weight that a mask keeps, or all with 0 where it keeps none, 1-D.

    Args:
        weight: any shape, C-contiguous.
        mask: its bits, least significant first.
        dense: whether to return all.
    """
    keep = empty((weight.size,), np.uint8)

    def unpack_bits(start: int, stop: int) -> int:
        bits = mask[start // 8 : -(-stop // 8)]
        keep[start:stop] = np.unpackbits(bits, count=stop - start, bitorder="little")
        return int(np.count_nonzero(keep[start:stop]))

    counts = map_slabs(unpack_bits, weight.size)
    stored = keep.view(bool)
    if dense:
        return zero_out(weight.reshape(-1), stored)
    return _gathered(weight, stored, counts)


def _mark(weight: NDArray[np.generic], stored: NDArray[np.bool_]) -> list[int]:
    """Unmarks in `stored`, 1-D, what is zero, and returns how many are left in each slab."""
    bits = weight.reshape(-1).view(f"u{weight.dtype.itemsize}")
    # All bits but the sign: -0 is a zero, too.
    magnitude = bits.dtype.type(np.iinfo(bits.dtype).max >> 1)

    def unmark(start: int, stop: int) -> int:
        stored[start:stop] &= (bits[start:stop] & magnitude) != 0
        return int(np.count_nonzero(stored[start:stop]))

    return map_slabs(unmark, bits.size)


def _gathered(
    weight: NDArray[np.generic], stored: NDArray[np.bool_], counts: list[int]
) -> NDArray[np.generic]:
    """Returns the stored elements, 1-D, of which each slab has as many as `counts` says."""
    bits = weight.reshape(-1).view(f"u{weight.dtype.itemsize}")
    ends = np.cumsum(counts)
    nonzero = empty((int(ends[-1]) if counts else 0,), bits.dtype)

    def gather(start: int, stop: int) -> None:
        end, count = ends[slab_number(start)], counts[slab_number(start)]
        np.compress(stored[start:stop], bits[start:stop], out=nonzero[end - count : end])

    map_slabs(gather, bits.size)
    return nonzero.view(weight.dtype)


def unpack(
    mask: NDArray[np.uint8], nonzero: NDArray[np.generic], shape: tuple[int, ...]
) -> NDArray[np.generic]:
    """Returns the dense array that `pack` was given, zeros where the mask is unset."""
    size = int(np.prod(shape, dtype=np.int64))
    stored = np.unpackbits(mask, count=size, bitorder="little").astype(bool)
    dense = np.zeros(size, nonzero.dtype)
    dense[stored] = nonzero
    return dense.reshape(shape)
