"""What no run leaves behind: how its end is made sure, and how what a killed one left is found.

What a run makes is locked by the operating system while that run lives, however it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

_numbers = count()
_open: dict[int, tuple[int, Callable[[], object]]] = {}  # by number: of which process, and what


def surely(work: Callable[[], object]) -> Callable[[], None]:
    """Returns a call of `work`, which is made as the process exits where it was not made before.

    An interrupt may come at any moment, within `work` too; so it is open until it has come to its
    end. In a fork the call does nothing.

    Args:
        work: may be called again where it was cut short.
    """
    number, process = next(_numbers), os.getpid()
    _open[number] = process, work

    def do() -> None:
        if number in _open and os.getpid() == process:
            work()
            _open.pop(number, None)

    return do


@atexit.register
def _do_the_rest() -> None:
    while _open:
        _, (process, work) = _open.popitem()
        if process == os.getpid():
            with contextlib.suppress(OSError):
                work()


def make_locked(path: Path, make: Callable[[Path], object]) -> int:
    """Returns the descriptor of what `make` makes, locked until that is closed.

    Where the file system has no locks it is not locked, and nobody takes it for a dead run's.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        make(path)
        with contextlib.suppress(FileNotFoundError):  # taken for a dead run's before it was locked
            descriptor = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_at(descriptor, path):
                return descriptor
            os.close(descriptor)


@contextlib.contextmanager
def locked_if_dead(path: Path) -> Iterator[bool]:
    """Yields whether the run that made a file or folder is dead; nobody else takes it meanwhile."""
    descriptor, dead = -1, False
    with contextlib.suppress(OSError):  # not ours to open; or in use; or there are no locks
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        dead = is_at(descriptor, path)
    try:
        yield dead
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Returns whether what is open has that path now."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def discard(building: Path) -> None:
    """Removes what is at a path, if anything; an interrupt does not keep it from that."""
    try:
        _remove(building)
    except BaseException:
        _remove(building)
        raise


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
