"""What a long run has finished, in a hidden folder beside its output, for one run at a time.

The folder is claimed by a lock of the operating system, which is gone with the process that holds
it, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import weakref
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from mlpass.errors import CalibrationError, OutputBusyError, add_note
from mlpass.files import hidden_path, partial_path, remove_dead, whole_file
from mlpass.leftovers import discard, is_at, surely
from mlpass.version import __version__

_LOCK, _FORM = "lock", "form"  # the files that every ledger has
_RUN = "run"  # that one of a single run has: the digest of what it depends on
_held: weakref.WeakSet[Ledger] = weakref.WeakSet()


def journal_path(output: str | os.PathLike[str]) -> Path:
    """Returns where the journal of the run that writes `output` is kept."""
    return hidden_path(Path(output).absolute(), "resume")


def close_all(error: BaseException) -> None:
    """Closes what an interrupt left open, since it came before or while that was closed."""
    for ledger in list(_held):
        ledger.close(error)


class Ledger:
    """A folder that belongs to this run until it is closed or forgotten, or the process ends."""

    def __init__(self, folder: Path, finished: str) -> None:
        """Claims a folder; it is made where it is not there, and keeps what is in it.

        Raises:
            OutputBusyError: another run has it; or there is something else than a folder.
            OSError: it cannot be made.
        """
        self.folder = folder
        self._finished = finished
        locks: list[int] = []
        end = partial(_let_go, locks, folder, partial_path(folder), finished)
        self._end = weakref.finalize(self, surely(end))
        remove_dead(folder)
        _claim(folder, locks)
        _held.add(self)

    def begin(self, names: Iterable[str], *, resume: bool) -> None:
        """Deletes what is in it; or leaves it, to be gone on with.

        Args:
            names: what each result in it is made of; another version may know others.
            resume: whether to go on.

        Raises:
            CalibrationError: what is there was written by another version; it is let go of.
            OSError: it cannot be written.
        """
        form = " ".join([__version__, *names])
        path = self.folder / _FORM
        if not resume:
            self.clear()
        elif any(self.folder.glob(self._finished)) and _text(path) != form:
            self.free()
            raise CalibrationError(
                f"resume: {self.folder} was written by another version of mlpass, and is not used; "
                "without resume, the run starts anew and deletes it"
            )
        with whole_file(path, force=True) as building:
            building.write_text(form)

    def begin_run(self, names: Iterable[str], digest: str, depends: str, *, resume: bool) -> None:
        """Begins where all results are of one run: `begin`, and whether it is still that run.

        Args:
            names: as for `begin`, and so is `resume`.
            digest: of all that the results depend on.
            depends: in words what is another where the digest is.
            resume: whether to go on.

        Raises:
            CalibrationError: what is there is of another run or version; it is let go of.
            OSError: it cannot be written.
        """
        self.begin(names, resume=resume)
        head = self.folder / _RUN
        if resume and head.is_file():
            if _text(head) != digest:
                self.free()
                raise CalibrationError(
                    f"resume: {self.folder} belongs to a run with {depends}; "
                    "without resume, the run starts anew and deletes it"
                )
            return
        with whole_file(head, force=True) as building:
            building.write_text(digest)

    def clear(self) -> None:
        """Deletes what is in it."""
        for path in self.folder.iterdir():
            if path.name != _LOCK:
                discard(path)

    def close(self, error: BaseException | None) -> None:
        """Deletes it where the run is done; where there is an error, that tells what stays."""
        if error is None:
            try:
                self.clear()
            except BaseException as cut:
                self.close(cut)
                raise
        elif any(self.folder.glob(self._finished)):
            add_note(
                error,
                f"what was finished is kept in {self.folder}: go on with resume (--resume), "
                "or delete that folder",
            )
        self.free()

    def free(self) -> None:
        """Lets go of the folder; it stays where something in it is finished."""
        self._end()
        _held.discard(self)


def _let_go(locks: list[int], folder: Path, gone: Path, finished: str) -> None:
    """Closes a lock, and deletes the folder where nothing in it is finished.

    It may be called again where it was cut short.
    """
    if not os.path.lexists(gone):
        with contextlib.suppress(OSError):
            if not locks:
                locks.append(_open(folder))
            if _holds(locks[0], folder / _LOCK) and not any(folder.glob(finished)):
                _give_up(folder, gone)
    while locks:
        os.close(locks.pop())
    discard(gone)


def _give_up(folder: Path, gone: Path) -> None:
    """Renames a folder: it goes from one moment to the next for whoever would claim it."""
    try:
        folder.rename(gone)
    except OSError:
        discard(folder)


def _claim(folder: Path, locks: list[int]) -> None:
    """Puts the descriptor of the folder's lock into `locks`, which this run then holds."""
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        try:
            locks.append(_open(folder))
        except FileNotFoundError:
            continue  # the run that had it is done, just now
        try:
            if _holds(locks[0], folder / _LOCK):
                return
        except OSError as error:
            os.close(locks.pop())
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise OutputBusyError(
                    f"{folder} is in use: another run is writing the same output; "
                    "wait until it is done, or name another output"
                ) from None
            raise
        os.close(locks.pop())  # likewise


def _open(folder: Path) -> int:
    """Returns the descriptor of a folder's lock, which nobody holds by that."""
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise OutputBusyError(f"{folder}: is not a folder of mlpass's own; delete it")
    return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _holds(lock: int, path: Path) -> bool:
    """Returns whether a lock is held now, and still has its path."""
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return is_at(lock, path)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None
