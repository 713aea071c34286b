"""Memory for large arrays: pages of their own, which go back to the system with the array."""

from __future__ import annotations

import mmap
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LARGE = 1 << 20


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Returns an uninitialised array.

    The heap keeps large blocks that were freed, in the hope of using them again; with tensors of
    many sizes that comes to several times the largest. A large array gets pages of its own instead.
    """
    nbytes = prod(shape) * np.dtype(dtype).itemsize
    if nbytes < _LARGE:
        return np.empty(shape, dtype)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)
