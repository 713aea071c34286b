"""Numpy kernels on all cores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlpass.parallel import map_slabs


def on_all_cores(fill: Callable[[int, int], None], length: int, elements_each: int) -> None:
    """Calls `fill(start, stop)` on slabs of `range(length)`; see `mlpass.parallel.map_slabs`.

    A thread has floating-point error handling of its own: all work under the caller's.
    """
    errors = np.geterr()

    def fill_as_called(start: int, stop: int) -> None:
        with np.errstate(**errors):
            fill(start, stop)

    map_slabs(fill_as_called, length, elements_each)
