"""Renames of one step that replace nothing, or swap two paths; and what comes nearest without them.

Not every file system has them, and Python has neither.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from pathlib import Path

from mlpass.leftovers import discard, locked_if_dead

_AT_FDCWD = -100
# Linux has renameat2, macOS renamex_np.
_ONLY_NEW = 4 if sys.platform == "darwin" else 1
_SWAP = 2
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)  # the file system does not know that flag


def rename_new(building: Path, target: Path) -> None:
    """Renames `building` to `target`.

    Raises:
        FileExistsError: something is there; both are as they were.
    """
    try:
        _rename(building, target, _ONLY_NEW)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        take = _take_as_folder if building.is_dir() else _take_as_file
        take(building, target)


def _take_as_folder(building: Path, target: Path) -> None:
    """An empty folder holds the place: a folder can be renamed to that, and to no other."""
    target.mkdir()
    try:
        building.rename(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            target.rmdir()
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(errno.EEXIST, error.strerror, str(target)) from None
        raise


def _take_as_file(building: Path, target: Path) -> None:
    """A second name replaces nothing; without hard links, an empty file holds the place."""
    try:
        os.link(building, target)
    except FileExistsError:
        raise
    except OSError:
        with target.open("xb"):
            pass
        os.replace(building, target)


def replace_folder(building: Path, target: Path) -> None:
    """Puts `building` at `target`; what is there becomes `building`."""
    try:
        _rename(building, target, _SWAP)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        _replace_in_two_steps(building, target)


def _replace_in_two_steps(building: Path, target: Path) -> None:
    """For file systems that cannot swap: between the steps, the old one has another name."""
    aside = building.with_suffix(".old")
    with locked_if_dead(target):  # so that nobody takes `aside` for a dead run's
        try:
            target.rename(aside)
            rename_new(building, target)
            aside.rename(building)
        except BaseException:
            if not os.path.lexists(building):  # the new one is in its place
                discard(aside)
            elif os.path.lexists(aside):
                rename_new(aside, target)
            raise


def _rename(first: Path, second: Path, how: int) -> None:
    """Renames in one step of the file system, as plain `os.rename` cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin":
        status = libc.renamex_np(*paths, how)
    elif hasattr(libc, "renameat2"):
        status = libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], how)
    else:
        raise OSError(errno.ENOSYS, "no call here renames so")
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(second))
