"""Room for what an op makes, where numbers of the program say how large that is.

Any number may stand there. An allocation alone would not tell: systems grant more than they have,
and end who uses it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from math import prod
from typing import Any

import numpy as np


def check_room(shape: Iterable[int], dtype: Any) -> None:
    """Raises ValueError where an array takes more than the memory of the machine.

    Args:
        shape: of the array, or any sizes whose product is its number of elements.
        dtype: of its elements, in any namespace.
    """
    each = getattr(dtype, "itemsize", 1)
    size = prod(shape) * (each if isinstance(each, int) else np.dtype(dtype).itemsize)
    if size > _memory():
        raise ValueError(f"it makes an array of {size} bytes; this machine has {_memory()}")


@cache
def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
