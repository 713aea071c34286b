"""Work on slabs of an array, on all cores, with results that do not depend on their number."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Result = TypeVar("Result")

# A slab of a million elements and its by-products stay in a core's cache share, and are still
# many times what starting a job costs.
SLAB = 1 << 18


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="mlpass")


def thread_count() -> int:
    """Returns how many threads to use: MLPASS_THREADS where it is set, else one per core."""
    setting = os.environ.get("MLPASS_THREADS", "")
    if setting.isdigit() and int(setting) > 0:
        return int(setting)
    return os.cpu_count() or 1


def slab_number(start: int, elements_each: int = 1) -> int:
    """Returns the place of the slab that begins at `start` among the results of `map_slabs`."""
    return start // _step(elements_each)


def _step(elements_each: int) -> int:
    return max(1, SLAB // max(1, elements_each))


def map_slabs(
    function: Callable[[int, int], Result], length: int, elements_each: int = 1
) -> list[Result]:
    """Returns `function(start, stop)` for consecutive slabs that cover `range(length)`, in order.

    numpy releases the interpreter lock inside its loops, so threads are enough.

    Args:
        function: called with slab bounds; what it writes must not overlap with other slabs.
        length: how many items (elements, rows) there are.
        elements_each: how many elements one item stands for; sets how many items make a slab.
    """
    step = _step(elements_each)
    bounds = [(start, min(start + step, length)) for start in range(0, length, step)]
    threads = thread_count()
    if threads == 1 or len(bounds) <= 1:
        return [function(start, stop) for start, stop in bounds]
    return list(_pool(threads).map(lambda bound: function(*bound), bounds))
