"""fp16 to fp32 and back, the same in every bit as numpy's own casts and several times as fast.

numpy converts one element at a time and branches on what it is, which pruned weights make hard to
foresee.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mlpass.parallel import map_slabs

_SIGN, _INFINITY, _ONE = np.uint32(0x8000), np.uint32(0x7C00), np.uint32(1)
_LOST = np.uint32(13)  # bits of an fp32 mantissa that fp16 lacks
_HALF = np.float32(0.5)  # its last bit is 2^-24, the smallest fp16
_NORMAL = 0x38800000  # the bits of 2^-14, the smallest normal fp16 ...
_OWN = np.uint32(0x400)  # ... and its own as fp16
_ROUNDING = np.uint32((0xFFF - _NORMAL) % (1 << 32))  # almost half of what is lost


def widened(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """Returns fp32 of fp16, looked up, and of other dtypes as numpy does; fp32 as it is."""
    if values.dtype != np.float16:
        return values.astype(np.float32, copy=False)
    bits = np.ascontiguousarray(values).reshape(-1).view(np.uint16)
    result = np.empty(bits.size, np.float32)

    def look_up(start: int, stop: int) -> None:
        np.take(_table(), bits[start:stop], out=result[start:stop], mode="clip")

    map_slabs(look_up, bits.size)
    return result.reshape(values.shape)


def narrowed(values: NDArray[np.generic]) -> NDArray[np.float16]:
    """Returns fp16 of fp32, and of other dtypes as numpy does; fp16 as it is.

    fp32 is rounded to the nearest, of two as near to the even one. Halves are numbered like their
    bits. Of a normal one the number is the fp32 bits, rounded and moved; of a subnormal one the
    multiple of 2^-24, which is where adding 0.5 puts the last bit. Each is too large where the
    other is right.
    """
    if values.dtype != np.float32:
        return values.astype(np.float16, copy=False)
    flat = np.ascontiguousarray(values).reshape(-1)
    if not all(map_slabs(lambda start, stop: bool(np.isfinite(flat[start:stop]).all()), flat.size)):
        return values.astype(np.float16)
    result = np.empty(flat.size, np.uint16)

    def convert(start: int, stop: int) -> None:
        signed = flat[start:stop].view(np.uint32)
        sizes = signed & np.uint32(0x7FFFFFFF)
        normal = sizes >> _LOST
        normal &= _ONE  # with which a tie goes up to the even one
        normal += sizes
        normal += _ROUNDING  # wraps round below 2^-14
        normal >>= _LOST
        normal += _OWN
        sums = sizes.view(np.float32)
        sums += _HALF
        sizes -= _HALF.view(np.uint32)
        np.minimum(normal, sizes, out=normal)
        np.minimum(normal, _INFINITY, out=normal)
        normal |= (signed >> np.uint32(16)) & _SIGN
        result[start:stop] = normal

    map_slabs(convert, flat.size)
    return result.view(np.float16).reshape(values.shape)


@cache
def _table() -> NDArray[np.float32]:
    """Returns fp32 of every fp16, by its bits."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
