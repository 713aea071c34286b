"""Weight files: blobs of elements, each behind a header of its own.

The format (version 2) is little-endian. A 64-byte file header holds the number of blobs (u32) and
the version (u32). Each blob has a 64-byte header - sentinel (u32), element type (u32), data size in
bytes (u64), data offset (u64), padding bits of a sub-byte type (u64) - and its data; headers and
data start at multiples of 64. A program refers to a blob by the offset of its header.

Nothing that a file says is believed before it is checked against the file's size.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mlpass.buffers import empty
from mlpass.errors import ModelFormatError
from mlpass.parallel import map_slabs
from mlpass.program.dtypes import DType
from mlpass.program.ir import Constant, Raw

_SENTINEL = 0xDEADBEEF
_VERSION = 2
_ALIGNMENT = 64
_FILE_HEADER = struct.Struct("<II56x")
_BLOB_HEADER = struct.Struct("<IIQQQ32x")
_CHUNK = 1 << 20
_BUFFER = 1 << 16  # small blobs are written together; of large ones only what remains is held


FILE_HEADER_NBYTES = _FILE_HEADER.size


def blob_nbytes(nbytes: int) -> int:
    """Returns what a blob of so many bytes takes in a file, with its header and up to the next."""
    return _BLOB_HEADER.size + _aligned(nbytes)


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


class _Header(NamedTuple):
    """What a blob says of itself."""

    code: int
    nbytes: int
    start: int
    padding_bits: int


class BlobFile:
    """A weight file, open for reading. Reads are positional, so threads may share it."""

    def __init__(self, path: Path) -> None:
        """Opens `path`.

        Raises:
            ModelFormatError: it is not a weight file.
            OSError: it cannot be opened.
        """
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._headers: dict[tuple[int, str, int], _Header] = {}  # that were found to be right
        try:
            self.nbytes = os.fstat(self._file.fileno()).st_size
            header = self._read(0, _FILE_HEADER.size, "its header")
            self.count, version = _FILE_HEADER.unpack(header.tobytes())
            if version != _VERSION:
                raise ModelFormatError(f"{path}: weight file version {version} is not {_VERSION}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file; nothing can be read any more."""
        self._file.close()

    def read(
        self, offset: int, dtype: DType, count: int, start: int = 0, stop: int | None = None
    ) -> Raw:
        """Returns the bytes of the blob whose header is at `offset`.

        Args:
            offset: as the program states it.
            dtype: the element type that the program states.
            count: the number of elements that the program states.
            start: the first of them to read, which begins a byte.
            stop: the one after the last of them to read; None is all.

        Raises:
            ModelFormatError: the blob does not hold all of that.
        """
        header = self._header(offset, dtype, count)
        skipped = dtype.nbytes(start)
        nbytes = header.nbytes if stop is None else dtype.nbytes(stop)
        return self._read(header.start + skipped, nbytes - skipped, f"the blob at {offset}")

    def chunks(self, offset: int, dtype: DType, count: int) -> Iterator[memoryview]:
        """Yields the same bytes in pieces; each is overwritten by the next.

        Raises:
            ModelFormatError: as `read`.
        """
        header = self._header(offset, dtype, count)
        buffer = memoryview(bytearray(min(_CHUNK, header.nbytes)))
        for start in range(0, header.nbytes, _CHUNK):
            view = buffer[: header.nbytes - start]
            self._read_into(view, header.start + start, f"the blob at {offset}")
            yield view

    def check(self, offset: int, dtype: DType, count: int) -> None:
        """Raises ModelFormatError where `read` would, without reading the data."""
        self._header(offset, dtype, count)

    def _header(self, offset: int, dtype: DType, count: int) -> _Header:
        asked = (offset, dtype.name, count)
        header = self._headers.get(asked)
        if header is None:
            header = self._headers[asked] = self._checked(offset, dtype, count)
        return header

    def _checked(self, offset: int, dtype: DType, count: int) -> _Header:
        where = f"{self.path}: the blob at {offset}"
        if offset % _ALIGNMENT:
            raise ModelFormatError(f"{where}: the offset is not a multiple of {_ALIGNMENT}")
        raw, what = memoryview(bytearray(_BLOB_HEADER.size)), f"the blob header at {offset}"
        self._check_end(offset + len(raw), what)
        self._read_into(raw, offset, what)
        sentinel, *rest = _BLOB_HEADER.unpack(raw)
        header = _Header(*rest)
        if sentinel != _SENTINEL:
            raise ModelFormatError(f"{where}: no blob starts there (wrong sentinel {sentinel:#x})")
        if header.code != dtype.blob:
            raise ModelFormatError(
                f"{where}: holds elements of code {header.code}, the program says {dtype.name}"
            )
        if header.nbytes != dtype.nbytes(count):
            raise ModelFormatError(
                f"{where}: holds {header.nbytes} bytes, the program says {count} elements "
                f"of {dtype.name} ({dtype.nbytes(count)} bytes)"
            )
        if header.start + header.nbytes > self.nbytes:
            raise ModelFormatError(
                f"{where}: ends at {header.start + header.nbytes}, past the end of the file "
                f"({self.nbytes} bytes): is it truncated?"
            )
        return header

    def _check_end(self, end: int, what: str) -> None:
        if end > self.nbytes:
            raise ModelFormatError(
                f"{self.path}: {what} ends at {end}, past the end of the file "
                f"({self.nbytes} bytes): is it truncated?"
            )

    def _read(self, start: int, nbytes: int, what: str) -> Raw:
        self._check_end(start + nbytes, what)
        buffer: Raw = empty((nbytes,), np.uint8)
        view = buffer.data

        def read_words(first: int, stop: int) -> None:
            self._read_into(view[4 * first : 4 * stop], start + 4 * first, what)

        map_slabs(read_words, -(-nbytes // 4))
        return buffer

    def _read_into(self, view: memoryview, start: int, what: str) -> None:
        done = 0
        while done < len(view):
            try:
                got = os.preadv(self._file.fileno(), [view[done:]], start + done)
            except OSError as error:  # it knows no name, only a number
                error.filename = str(self.path)
                raise
            if got == 0:
                raise ModelFormatError(f"{self.path}: {what} is cut short: it shrank while read")
            done += got


class GrownBlobs:
    """A weight file together with blobs that are not in it yet, at offsets past its end."""

    def __init__(self, file: BlobFile, added: Mapping[int, Constant]) -> None:
        """Adds to `file` the constants of `added`, by their offsets."""
        self._file = file
        self._added = added

    def read(
        self, offset: int, dtype: DType, count: int, start: int = 0, stop: int | None = None
    ) -> Raw:
        """Returns the bytes of the blob at `offset`: see `BlobFile.read`."""
        if offset not in self._added:
            return self._file.read(offset, dtype, count, start, stop)
        raw: Raw = self._added[offset].load()
        return raw[dtype.nbytes(start) : dtype.nbytes(count if stop is None else stop)]

    def chunks(self, offset: int, dtype: DType, count: int) -> Iterator[memoryview]:
        """Yields the same bytes in pieces: see `BlobFile.chunks`."""
        if offset in self._added:
            yield self.read(offset, dtype, count).data
        else:
            yield from self._file.chunks(offset, dtype, count)

    def check(self, offset: int, dtype: DType, count: int) -> None:
        """Raises ModelFormatError where `read` would, without reading the data."""
        if offset not in self._added:
            self._file.check(offset, dtype, count)


class BlobWriter:
    """A weight file being written, from its start to its end."""

    def __init__(self, path: Path) -> None:
        """Creates `path`, which must not exist."""
        self._file: BinaryIO = path.open("xb", _BUFFER)
        self._count = 0
        self._end = 0
        try:
            self._write(_FILE_HEADER.pack(0, _VERSION))
        except BaseException:
            self._file.close()
            raise

    def write(self, raw: Raw, dtype: DType, count: int) -> int:
        """Appends a blob and returns the offset by which a program refers to it.

        Args:
            raw: its bytes.
            dtype: its element type.
            count: its number of elements.
        """
        return self.write_pieces((raw,), dtype, count)

    def write_pieces(self, pieces: Iterable[Raw], dtype: DType, count: int) -> int:
        """Appends a blob and returns its offset, as `write` does.

        Args:
            pieces: its bytes, one after the other.
            dtype: its element type.
            count: its number of elements.
        """
        offset = self._begin(dtype, count)
        for raw in pieces:
            self._write(raw.data)
        return offset

    def copy(self, source: BlobFile | GrownBlobs, offset: int, dtype: DType, count: int) -> int:
        """Appends a blob of another file, chunk by chunk, and returns its new offset."""
        new_offset = self._begin(dtype, count)
        for chunk in source.chunks(offset, dtype, count):
            self._write(chunk)
        return new_offset

    def close(self) -> None:
        """Completes and closes the file."""
        with self._file:
            self._file.flush()
            os.pwrite(self._file.fileno(), _FILE_HEADER.pack(self._count, _VERSION), 0)

    def _begin(self, dtype: DType, count: int) -> int:
        if dtype.blob is None:
            raise ValueError(f"a weight file cannot hold {dtype.name}")
        offset = _aligned(self._end)
        start = _aligned(offset + _BLOB_HEADER.size)
        nbytes = dtype.nbytes(count)
        padding_bits = nbytes * 8 - count * dtype.bits
        header = _BLOB_HEADER.pack(_SENTINEL, dtype.blob, nbytes, start, padding_bits)
        self._write(bytes(offset - self._end) + header)
        self._count += 1
        return offset

    def _write(self, data: bytes | memoryview) -> None:
        self._end += self._file.write(data)
