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
    """A folder that belongs to this run until it is closed, or this process is gone.

    Attributes:
        folder: where it is.
        free: lets go of the folder, and leaves it where it is.
    """

    def __init__(self, folder: Path) -> None:
        """Claims a folder; it is made where it is not there, and keeps what is in it.

        Raises:
            OutputBusyError: another run has it; or there is something else than a folder.
            OSError: it cannot be made.
        """
        self.folder = folder
        self.free = weakref.finalize(self, os.close, _claim(folder))

    def clear(self) -> None:
        """Deletes what is in it."""
        for path in self.folder.iterdir():
            if path.name != _LOCK:
                discard(path)

    def close(self, error: BaseException | None, finished: str) -> None:
        """Deletes it where the run is done, or nothing is in it to go on with.

        Otherwise the error tells where it is.

        Args:
            error: that the run ended with; None where it is done.
            finished: a pattern for the files to go on with.
        """
        if error is not None and any(self.folder.glob(finished)):
            add_note(
                error,
                f"what was finished is kept in {self.folder}: go on with resume (--resume), "
                "or delete that folder",
            )
        else:
            self._delete()
        self.free()

    def _delete(self) -> None:
        """Deletes it, from one moment to the next for whoever would claim it."""
        gone = hidden_path(self.folder, f"{uuid.uuid4().hex[:12]}.partial")
        try:
            self.folder.rename(gone)
        except OSError:
            gone = self.folder
        self.free()
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
