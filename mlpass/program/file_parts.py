"""A file that is read where it is asked for, so that no more of it is in memory than that."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from mlpass.errors import ModelFormatError
from mlpass.files import naming


class FilePart:
    """A part of a file, which can be sliced as bytes can: its bytes are read by `bytes(part)`."""

    def __init__(self, file: _OpenFile, start: int, stop: int) -> None:
        """Takes the part from one byte to before another."""
        self._file, self._start, self._stop = file, start, stop

    @classmethod
    def whole(cls, path: Path) -> FilePart:
        """Returns all of a file, which stays open as long as any part of it is there.

        Raises:
            OSError: it cannot be opened.
        """
        file = _OpenFile(path)
        return cls(file, 0, file.size)

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, where: slice) -> FilePart:
        start, stop, _ = where.indices(len(self))
        return FilePart(self._file, self._start + start, self._start + max(start, stop))

    def __bytes__(self) -> bytes:
        return self._file.read(self._start, len(self))


class _OpenFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, size: int) -> bytes:
        """Returns so many bytes from a place on."""
        found = bytearray()
        with naming(self._path):
            while piece := os.pread(self._descriptor, size - len(found), start + len(found)):
                found += piece
        if len(found) < size:
            raise ModelFormatError(f"{self._path}: became shorter while it was read")
        return bytes(found)
