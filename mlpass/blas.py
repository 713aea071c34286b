"""BLAS held to one thread, so that the bits of a product do not depend on the cores.

How a BLAS divides a product depends on its number of threads, and the order of a sum with it. The
number is set through threadpoolctl and then read back: a library that does not follow is named in
one warning, which says what then does not hold.

One thread of another BLAS, or on another kind of processor, adds in another order too, and nothing
here can change that. What numpy itself adds is the same with every release: arrays come to BLAS as
it takes them (`arrays.as_factor`), and long sums are taken in pieces (`arrays.summed`).
"""

from __future__ import annotations

import mmap
import os
import resource
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Protocol

import numpy as np

# What OpenBLAS takes for each thread that multiplies; where it is not given that, it asks for ever.
BUFFER = 32 << 20


class Library(Protocol):
    """What is asked of threadpoolctl's controller of a library."""

    filepath: str
    internal_api: str
    num_threads: int
    set_num_threads: Callable[[int], object]


class _Held:
    """The threads that hold BLAS to one thread, and how many threads each library had before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.libraries: list[Library] = []
        self.by_thread: tuple[Library, ...] = ()  # those of them that count for each thread apart
        self.before: dict[str, int] = {}  # by path, of libraries that count for the whole process
        self.told: set[str] = set()
        self.news: list[str] = []


class _Here(threading.local):
    """What a worker's own thread holds, and how many threads each library had in it before."""

    libraries: tuple[Library, ...] = ()

    def __init__(self) -> None:
        self.before: list[tuple[Library, int]] = []


_held, _here = _Held(), _Here()


def _new_lock() -> None:
    _held.lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)  # another thread may have had it, which a fork lacks


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Holds BLAS to one thread, from any thread; the last to leave gives BLAS its threads back.

    It may be entered again, and from several threads at once. All cores come back in through jobs
    whose bounds follow from sizes alone (`parallel.map_items`).

    Raises:
        MemoryError: BLAS has no room for its buffer.

    Warns:
        RuntimeWarning: once for each library that cannot be held to one thread.
    """
    mine = _enter()
    try:
        _warn()
        yield
    finally:
        _leave(mine)
    _warn()


def hold_here() -> None:
    """Holds BLAS to one thread in a worker's thread too, while anybody holds it at all.

    An OpenBLAS on OpenMP counts its threads for each caller's thread apart. A worker holds those in
    the first job that comes in a hold, and gives them back in the first that comes after it: to all
    other jobs, and where no library counts so, it is one comparison.
    """
    if _here.libraries is _held.by_thread:
        return
    with _held.lock:
        for library in _here.libraries:
            _check(library)
        while _here.before:
            _set_threads(*_here.before.pop())
        libraries = _held.by_thread
        for library in libraries:
            _here.before.append((library, library.num_threads))
            _set_threads(library, 1)
            _check(library)
        _here.libraries = libraries


def has_room(nbytes: int) -> bool:
    """Returns whether a limit of this process's address space (`ulimit -v`) leaves so much."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return True
    try:
        mmap.mmap(-1, nbytes).close()
    except OSError:
        return False
    return True


def _enter() -> dict[str, int]:
    """Returns how many threads the libraries that count by thread had in this one."""
    if _held.holders == 0 and not has_room(BUFFER):
        raise MemoryError("too little address space for BLAS: raise the limit (ulimit -v)")
    with _held.lock:
        if _held.holders == 0:
            _held.libraries = _loaded_libraries()
            _held.by_thread = tuple(filter(_counts_by_thread, _held.libraries))
            if not _held.libraries:
                _tell(*_unseen())
        _held.holders += 1
        mine: dict[str, int] = {}
        try:
            for library in _held.libraries:
                threads = library.num_threads
                if threads != 1:
                    _set_threads(library, 1)
                    # Where several holders are in, the first has seen what there was before.
                    (mine if _counts_by_thread(library) else _held.before).setdefault(
                        library.filepath, threads
                    )
                _check(library)
        except BaseException:  # an interrupt, or a library that refuses
            _release(mine)
            raise
        return mine


def _leave(mine: dict[str, int]) -> None:
    with _held.lock:
        for library in _held.libraries:
            _check(library)
        _release(mine)


def _release(mine: dict[str, int]) -> None:
    """Gives each library back what it had, where nobody holds it any more; the lock is taken."""
    _held.holders -= 1
    libraries, before = _held.libraries, dict(mine)
    if _held.holders == 0:
        before |= _held.before
        _held.libraries, _held.by_thread, _held.before = [], (), {}
    for library in libraries:
        if library.filepath in before:
            _set_threads(library, before[library.filepath])


def _loaded_libraries() -> list[Library]:
    """Returns threadpoolctl's controller of each BLAS that is loaded now.

    The search takes up to a tenth of a small solve. A BLAS comes with a module that is imported, so
    as long as no module came in, the libraries of the last search are all.
    """
    return _libraries_with(len(sys.modules))


@lru_cache(maxsize=1)
def _libraries_with(modules: int) -> list[Library]:
    from threadpoolctl import ThreadpoolController

    libraries: list[Library] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries


def _set_threads(library: Library, threads: int) -> None:
    """Sets a library's number of threads, whichever thread asks.

    From 3.8 on, threadpoolctl lets one thread alone set the number of a library that counts for the
    whole process, and ignores all others. So that thread's claim is lifted before, and nobody's
    is left behind.
    """
    lift = getattr(library, "clear_controlling_thread", None)
    if lift is not None:
        lift(force=True)
    library.set_num_threads(threads)
    if lift is not None and threads != 1:
        lift(force=True)


def _counts_by_thread(library: object) -> bool:
    return getattr(library, "threading_layer", None) == "openmp"


def _check(library: Library) -> None:
    """Reads the number back, and says so once where it is not one."""
    if library.num_threads != 1:
        _tell(
            f"{library.internal_api} ({library.filepath})",
            f"runs {library.num_threads} threads, though it was set to one",
            "set OPENBLAS_NUM_THREADS=1 (or its own variable) before Python starts",
        )
    elif library.internal_api == "mkl" and "MKL_CBWR" not in os.environ:
        _tell(
            f"mkl ({library.filepath})",
            "sums in an order that follows where arrays lie in memory",
            "set MKL_CBWR=COMPATIBLE before Python starts",
        )


def _unseen() -> tuple[str, str, str]:
    """Returns what to tell of a BLAS that threadpoolctl does not see."""
    config = np.show_config(mode="dicts")
    name = config.get("Build Dependencies", {}).get("blas", {}).get("name", "unknown")
    return (
        f"numpy's BLAS ({name})",
        "is not known to threadpoolctl, so its threads cannot be set",
        "use a numpy with OpenBLAS, as from the index with `pip install numpy`",
    )


def _tell(library: str, what: str, cure: str) -> None:
    """Keeps what is to be said of a library, once for each."""
    if library in _held.told:
        return
    _held.told.add(library)
    _held.news.append(
        f"{library} {what}: the same input may give other last bits on another number of cores or "
        f"in another thread; {cure}"
    )


def _warn() -> None:
    """Warns of what there is to tell: after the lock, since a warning may be made an error."""
    while _held.news:
        warnings.warn(_held.news.pop(), RuntimeWarning, stacklevel=4)
