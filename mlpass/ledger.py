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
import uuid
import weakref
from pathlib import Path

from mlpass.errors import OutputBusyError
from mlpass.files import discard, hidden_path

_LOCK = "lock"


class Ledger:
    """A folder that belongs to this run until it is closed or forgotten, or this process is gone.

    Attributes:
        folder: where it is.
        free: lets go of the folder; it stays where something in it is finished.
    """

    def __init__(self, folder: Path, finished: str) -> None:
        """Claims a folder; it is made where it is not there, and keeps what is in it.

        Args:
            folder: to claim.
            finished: a pattern for the files in it that a later run can go on with.

        Raises:
            OutputBusyError: another run has it; or there is something else than a folder.
            OSError: it cannot be made.
        """
        self.folder = folder
        self._finished = finished
        self.free = weakref.finalize(self, _let_go, _claim(folder), folder, finished, os.getpid())

    def clear(self) -> None:
        """Deletes what is in it."""
        for path in self.folder.iterdir():
            if path.name != _LOCK:
                discard(path)

    def close(self, error: BaseException | None) -> None:
        """Deletes it where the run is done; where there is an error, that tells what stays."""
        if error is None:
            self.clear()
        elif any(self.folder.glob(self._finished)):
            add_note(
                error,
                f"what was finished is kept in {self.folder}: go on with resume (--resume), "
                "or delete that folder",
            )
        self.free()


def _let_go(lock: int, folder: Path, finished: str, process: int) -> None:
    """Closes a lock, and deletes the folder where nothing in it is finished."""
    done = os.getpid() == process and not any(folder.glob(finished))  # no fork of its process
    gone = folder
    if done:
        with contextlib.suppress(OSError):  # from one moment to the next for who would claim it
            gone = folder.rename(hidden_path(folder, f"{uuid.uuid4().hex[:12]}.partial"))
    os.close(lock)
    if done:
        discard(gone)


def add_note(error: BaseException, note: str) -> None:
    """Adds a line to what an exception tells, as `BaseException.add_note` of Python 3.11 does."""
    vars(error).setdefault("__notes__", []).append(note)


def _claim(folder: Path) -> int:
    """Returns the descriptor of the folder's lock, once this run holds it."""
    path = folder / _LOCK
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        try:
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise OutputBusyError(f"{folder}: is not a folder of mlpass's own; delete it")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # the run that had it is done, just now
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # likewise
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise OutputBusyError(
                    f"{folder} is in use: another run is writing the same output; "
                    "wait until it is done, or name another output"
                ) from None
            raise
        os.close(descriptor)
