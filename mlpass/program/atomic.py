"""Putting a finished directory in its place, with the old one whole until that moment."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import uuid
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux: renameat2
_RENAME_SWAP = 2  # macOS: renamex_np


def make_building(target: Path) -> Path:
    """Returns a new empty directory beside `target` to build it in: hidden, with a free name.

    Raises:
        OSError: the directory of `target` is not there or cannot be written; it names `target`.
    """
    building = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        building.mkdir()
    except OSError as error:
        error.filename = str(target)
        raise
    return building


def replace_directory(building: Path, target: Path) -> None:
    """Renames `building` to `target`; a `target` that is there becomes `building`.

    Raises:
        OSError: it cannot be renamed; then both are as they were.
    """
    if not os.path.lexists(target):
        building.rename(target)
        return
    try:
        _exchange(building, target)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
        _replace_in_two_steps(building, target)


def discard(building: Path) -> None:
    """Removes what `make_building` made, or what `replace_directory` put there, if anything."""
    if building.is_symlink() or not building.is_dir():
        with contextlib.suppress(OSError):
            building.unlink()
    else:
        shutil.rmtree(building, ignore_errors=True)


def _exchange(first: Path, second: Path) -> None:
    """Swaps two paths in one step of the file system."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin":
        status = libc.renamex_np(*paths, _RENAME_SWAP)
    elif hasattr(libc, "renameat2"):
        status = libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    else:
        raise OSError(errno.ENOSYS, "no call here swaps two paths")
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(second))


def _replace_in_two_steps(building: Path, target: Path) -> None:
    """For file systems that cannot swap: between the steps, the old package has another name."""
    aside = building.with_suffix(".old")
    target.rename(aside)
    try:
        building.rename(target)
    except OSError:
        aside.rename(target)
        raise
    aside.rename(building)
