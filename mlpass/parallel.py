"""Work on slabs of an array, on all cores, with results that do not depend on their number."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache, partial
from typing import TypeVar, cast

from mlpass.blas import BUFFER, has_room, hold_here
from mlpass.errors import ConfigError, brief

Item = TypeVar("Item")
Result = TypeVar("Result")

# A slab of a million elements and its by-products stay in a core's cache share, and are still
# many times what starting a job costs.
SLAB = 1 << 18


_MOST = 1024  # threads
_AHEAD = 4  # results for each thread that may wait to be taken

_SPACE = BUFFER + (80 << 20)  # addresses for a thread: BLAS's, its stack, and an arena of malloc


_here = threading.local()  # `worker` is set in the pool's own threads


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "mlpass", initializer=_enter_worker)


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has none of its threads


def _enter_worker() -> None:
    _here.worker = True


def thread_count() -> int:
    """Returns how many threads to use: MLPASS_THREADS where it is set, else one per core.

    It is one where the address space has a limit (`ulimit -v`) that leaves no room for so many.

    Raises:
        ConfigError: MLPASS_THREADS is not such a number.
    """
    setting = os.environ.get("MLPASS_THREADS", "").strip()
    if setting and (re.fullmatch("[0-9]{1,4}", setting) is None or not 0 < int(setting) <= _MOST):
        raise ConfigError(
            f"MLPASS_THREADS: must be a number of threads, 1 to {_MOST}. Got {brief(setting)}; "
            "set it so, or not at all."
        )
    threads = int(setting) if setting else _cores()
    return threads if _have_room(threads) else 1


@cache
def _cores() -> int:
    return os.cpu_count() or 1


@cache
def _have_room(threads: int) -> bool:
    return has_room(threads * _SPACE)


def _threads() -> int:
    """Returns how many threads the caller may give jobs to: within a job, its own alone."""
    return 1 if getattr(_here, "worker", False) else thread_count()


def slab_number(start: int) -> int:
    """Returns the place of the slab that begins at `start` among the results of `map_slabs`."""
    return start // SLAB


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
    step = max(1, SLAB // max(1, elements_each))
    if 0 < length <= step:
        return [function(0, length)]
    bounds = [(start, min(start + step, length)) for start in range(0, length, step)]
    return map_items(lambda bound: function(*bound), bounds)


def map_items(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Returns `function(item)` for each item, in their order, worked out on all cores.

    Within a job of another call it is a plain loop: a job that waited for its own pool could wait
    for ever.

    Args:
        function: what it writes for one item must not overlap with what it writes for others.
        items: which must follow from sizes alone, if results are to be the same on any cores.
    """
    if len(items) <= 1 or (threads := _threads()) == 1:
        return [function(item) for item in items]
    return list(_pool(threads).map(partial(_run, function), items))


def _run(job: Callable[..., Result], *given: object) -> Result:
    hold_here()
    return job(*given)


def map_ahead(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yields `function(item)` for each item, in their order, while the next are worked out.

    It is `map_items` for results that are too large to be held all at once.

    Args:
        function: as for `map_items`.
        items: likewise.
    """
    if len(items) <= 1 or (threads := _threads()) == 1:
        yield from map(function, items)
        return
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            begun.append(_pool(threads).submit(_run, function, item))
            if len(begun) > _AHEAD * threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for job in begun:
            job.cancel()
        wait(begun)


def begin(function: Callable[[], Result]) -> Callable[[], Result]:
    """Returns what waits for `function()`, which runs beside its caller from now on.

    Within a job, and where there is one core, it runs when it is waited for.
    """
    if (threads := _threads()) == 1:
        return function
    return _pool(threads).submit(_run, function).result


def one_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Yields items, the next of which is worked out while the caller has one.

    To close it waits for that, so that what items come from can be closed as well.

    Args:
        items: that do not depend on what the caller does with those before; they run in threads
            other than the caller's, one at a time.
    """
    if _threads() == 1:
        yield from items
        return
    end = object()

    def following() -> Callable[[], Item | object]:
        return begin(lambda: next(items, end))

    coming = following()
    try:
        while (item := coming()) is not end:
            coming = following()
            yield cast(Item, item)
    finally:
        with suppress(Exception):
            coming()
