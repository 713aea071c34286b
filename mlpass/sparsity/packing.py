"""Keep mask and weight to packed mask bits and nonzero data, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.parallel import SLAB, map_slabs, slab_number


def zero_out(weight: NDArray[np.generic], keep: NDArray[np.bool_]) -> NDArray[np.generic]:
    """Returns `weight` with +0 where `keep` is False and every other element bit-identical."""
    bits = empty(weight.shape, f"u{weight.dtype.itemsize}")
    np.multiply(weight.view(bits.dtype), keep, out=bits)  # bits times 0 or 1
    return bits.view(weight.dtype)


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
    bits = weight.reshape(-1).view(f"u{weight.dtype.itemsize}")
    # All bits but the sign: -0 is a zero, too.
    magnitude = bits.dtype.type(np.iinfo(bits.dtype).max >> 1)

    def mark(start: int, stop: int) -> int:
        stored[start:stop] &= (bits[start:stop] & magnitude) != 0
        return int(np.count_nonzero(stored[start:stop]))

    counts = map_slabs(mark, bits.size)
    ends = np.cumsum(counts)
    nonzero = empty((int(ends[-1]) if counts else 0,), bits.dtype)

    def gather(start: int, stop: int) -> None:
        end, count = ends[slab_number(start)], counts[slab_number(start)]
        np.compress(stored[start:stop], bits[start:stop], out=nonzero[end - count : end])

    map_slabs(gather, bits.size)
    return np.packbits(stored, bitorder="little"), nonzero.view(weight.dtype)


def mask_part(bits: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.bool_]:
    """Returns which elements a mask's bits, least significant first, have from one to another."""
    first = start // 8
    unpacked = np.unpackbits(bits[first : -(-stop // 8)], count=stop - 8 * first, bitorder="little")
    mask: NDArray[np.bool_] = unpacked[start - 8 * first :].view(bool)
    return mask


def unmark_first(count: int, tied: NDArray[np.uint8], mask: NDArray[np.uint8]) -> int:
    """Unmarks in a mask's bits the first `count` of those that are marked in `tied`.

    Returns how many there were too few.
    """
    step = SLAB // 8
    for start in range(0, tied.size, step):
        if count == 0:
            break
        here = tied[start : start + step]
        found = int(np.bitwise_count(here).sum(dtype=np.int64))
        if found > count:
            bits = np.unpackbits(here, bitorder="little")
            bits[np.flatnonzero(bits)[count:]] = 0
            here = np.packbits(bits, bitorder="little")
        mask[start : start + step] &= ~here
        count -= min(found, count)
    return count


def unpack(
    mask: NDArray[np.uint8], nonzero: NDArray[np.generic], shape: tuple[int, ...]
) -> NDArray[np.generic]:
    """Returns the dense array that `pack` was given, zeros where the mask is unset."""
    size = int(np.prod(shape, dtype=np.int64))
    dense = np.zeros(size, nonzero.dtype)
    dense[mask_part(mask, 0, size)] = nonzero
    return dense.reshape(shape)
