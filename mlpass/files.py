"""A whole file or folder, or none: made beside its target, and renamed once it is done.

Without `force` the rename replaces nothing, so that what came into being meanwhile is kept. With it
the old one is whole until that moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from mlpass.errors import MlpassError, ModelFormatError, OutputExistsError

_AT_FDCWD = -100
# Linux has renameat2, macOS renamex_np.
_ONLY_NEW = 4 if sys.platform == "darwin" else 1
_SWAP = 2
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)  # the file system does not know that flag
_LONGEST_NAME = 255  # bytes


@contextlib.contextmanager
def whole_file(target: Path, *, force: bool) -> Iterator[Path]:
    """Yields the path to write a file at, which is put at `target` once the caller is done.

    Args:
        target: of the file.
        force: whether to replace one that is there.

    Raises:
        OutputExistsError: something is there, then or at the end, and `force` is False.
        OSError: it cannot be written; or a folder is there.
    """
    check_file(target, force=force)
    with _made(target, force, "file", os.replace) as building:
        yield building


@contextlib.contextmanager
def whole_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """Yields an empty folder to fill, which is put at `target` once the caller is done.

    Args:
        target: of the folder.
        force: whether to replace what is there.

    Raises:
        OutputExistsError: something is there, then or at the end, and `force` is False.
        OSError: it cannot be written.
    """
    check_free(target, force=force)
    with _made(target, force, "target", _replace_folder) as building:
        building.mkdir()
        yield building


def check_file(target: Path, *, force: bool) -> None:
    """Raises what `whole_file` would, before the work is done."""
    check_free(target, force=force, what="file")
    if target.is_dir() and not target.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))


def check_free(target: Path, *, force: bool, what: str = "target") -> None:
    """Raises OutputExistsError where something is at `target`, and `force` is False."""
    if os.path.lexists(target) and not force:
        raise OutputExistsError(
            f"{target}: already exists; pass force=True to replace it, or name another {what}"
        )


def check_regular(path: Path, error: type[MlpassError]) -> None:
    """Raises `error` where there is something else than a file: a folder, a pipe, a device.

    Raises:
        OSError: there is nothing, or nothing that can be looked at.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise error(f"{path}: is not a regular file")


def check_apart(target: Path, source: Path, what: str) -> None:
    """Checks that writing `target` neither changes nor removes the folder `source`.

    Folders are compared by what they are, so that links and spelling do not matter. `target` may be
    `source` itself: it takes its place as a whole.

    Args:
        target: a file or folder to be written.
        source: a folder.
        what: it is, for the message.

    Raises:
        ModelFormatError: `target` is within `source`, or holds it.
    """
    place = target.parent  # a link at `target` itself is replaced, not followed
    while not place.exists() and place != place.parent:
        place = place.parent
    within = {_identity(Path(folder)) for folder, _, _ in os.walk(source)}
    if _identity(place) in within:
        raise ModelFormatError(f"{target}: is within {what}; name another target")
    parents = Path(os.path.realpath(source)).parents
    above = {_identity(folder) for folder in parents if folder.exists()}
    if target.is_dir() and not target.is_symlink() and _identity(target) in above:
        raise ModelFormatError(f"{target}: holds {what}; name another target")


@contextlib.contextmanager
def naming(target: Path, hidden: Path) -> Iterator[None]:
    """Makes an OSError name `target` where it names nothing, or something at or below `hidden`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # it has words of its own
            raise
        names = [name for name in (error.filename, error.filename2) if name is not None]
        if not names or any(Path(os.fsdecode(name)).is_relative_to(hidden) for name in names):
            error.filename, error.filename2 = str(target), None  # the name that the caller knows
        raise


def hidden_path(target: Path, ending: str) -> Path:
    """Returns the path beside `target` of a hidden file or folder, whose name has that ending."""
    room = _LONGEST_NAME - len(f"..{ending}")
    name = target.name
    if len(os.fsencode(name)) > room:
        name = os.fsencode(name)[:room].decode(errors="ignore")
    return target.with_name(f".{name}.{ending}")


def discard(building: Path) -> None:
    """Removes what is at a path, if anything; an interrupt does not keep it from that."""
    try:
        _remove(building)
    except BaseException:
        _remove(building)
        raise


@contextlib.contextmanager
def _made(
    target: Path, force: bool, what: str, replace: Callable[[Path, Path], object]
) -> Iterator[Path]:
    """Yields a free path beside `target`; what is there at the end is put in its place."""
    building = hidden_path(target, f"{uuid.uuid4().hex[:12]}.partial")
    try:
        with naming(target, building):
            yield building
            while not _placed(building, target, replace if force else None):
                check_free(target, force=force, what=what)
    finally:
        discard(building)


def _placed(building: Path, target: Path, replace: Callable[[Path, Path], object] | None) -> bool:
    """Returns whether `building` could be put at `target`: it depends on what is there just now."""
    try:
        _rename_new(building, target)
    except FileExistsError:
        if replace is None:
            return False
    else:
        return True
    try:
        replace(building, target)
    except FileNotFoundError:
        if not os.path.lexists(building):
            raise
        return False  # the old one has gone meanwhile
    return True


def _rename_new(building: Path, target: Path) -> None:
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


def _replace_folder(building: Path, target: Path) -> None:
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
    target.rename(aside)
    try:
        _rename_new(building, target)
    except BaseException:
        _rename_new(aside, target)
        raise
    aside.rename(building)


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


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
