"""An ExecuTorch program, a `.pte`: the Core ML models in it, and the file written anew with others.

The file is a flatbuffer that tells of the methods and of their delegates, and after it segments of
data, of which the flatbuffer has the places. A delegate's data is a segment, or in the flatbuffer
itself; Core ML's is a packed folder, or names one that several methods share.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

from mlpass.errors import ModelFormatError, brief
from mlpass.files import check_regular, naming
from mlpass.program.flatbuffers import Table, unsigned
from mlpass.program.inmemoryfs import Image
from mlpass.program.pte_inline import exchanged

_MAGIC, _HEADER = b"ET12", b"eh00"
# In the header after the magic: its size, that of the flatbuffer, where segments begin, theirs.
_HEADER_SIZE, _PROGRAM_SIZE, _SEGMENT_BASE, _SEGMENTS_SIZE, _WITH_TOTAL = 12, 16, 24, 32, 32
_CORE_ML, _REFERENCE = "CoreMLBackend", b"CMJR"
_SEGMENT = 1  # where a delegate's data is, as opposed to in the flatbuffer
_LARGEST_PAGE = 1 << 14  # segments are aligned so that they can be mapped to memory
_MOST_DELEGATES = 1 << 12
_LONGEST_REFERENCE = 1 << 16


class _Program:
    """Slots of the fields that are read, by table."""

    plans, inline, segments, named = 1, 3, 4, 7
    plan_name, plan_delegates = 0, 7
    delegate_id, delegate_data = 0, 1
    location, index = 0, 1
    data = 0
    offset, size = 0, 1
    key, segment = 0, 1


class Blob(NamedTuple):
    """Where in the file a delegate's data is.

    Attributes:
        at: of its bytes in the file.
        is_segment: whether it is a segment.
    """

    at: range
    is_segment: bool


@dataclass(frozen=True)
class Delegate:
    """A Core ML delegate of a method.

    Attributes:
        blob: where the folder is that has its model.
        function: that it calls, of a model with one for each method; None of others.
    """

    blob: Blob
    function: str | None


class Pte:
    """An ExecuTorch program.

    Attributes:
        path: of the file.
        data: of the whole file.
        delegates: the Core ML delegates, by "method/number".
    """

    def __init__(self, path: Path) -> None:
        """Opens the program at `path`.

        Raises:
            ModelFormatError: it is not one, is broken, or has no Core ML delegate.
            OSError: it cannot be read.
        """
        self.path = path
        check_regular(path, ModelFormatError)
        with naming(path), path.open("rb") as file:
            empty = not file.seek(0, 2)
            whole = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.data = memoryview(whole)
        with self.telling():
            self._end, base = self._header()
            self._based = bool(base)  # without segments nothing needs to tell where they begin
            self._base = base or self._end
            self._root = Table.root(self.data[: self._end])
            self._segments = [
                (table, self._segment(table)) for table in self._root.tables(_Program.segments)
            ]
            self.delegates = dict(self._delegates())
        if not self.delegates:
            raise ModelFormatError(
                f"{path}: has no Core ML delegate, so no model that mlpass reads"
            )

    @property
    def models(self) -> dict[Blob, str]:
        """The name of the first delegate of each Core ML model."""
        names: dict[Blob, str] = {}
        for name, delegate in self.delegates.items():
            names.setdefault(delegate.blob, name)
        return names

    def image(self, blob: Blob) -> Image:
        """Returns the folder that a delegate has its model in."""
        with self.telling():
            return Image.read(self.data[blob.at.start : blob.at.stop])

    @contextmanager
    def telling(self, unpacked: Path | None = None) -> Iterator[None]:
        """Makes a ModelFormatError begin with the name of the file.

        Args:
            unpacked: a folder that nobody knows of, and whose name is left out.
        """
        try:
            yield
        except ModelFormatError as error:
            text = str(error)
            if unpacked is not None:
                text = text.replace(f"{unpacked}{os.sep}", "")
            raise ModelFormatError(f"{self.path}: {text}") from None

    def write(self, file: IO[bytes], images: Mapping[Blob, Image]) -> None:
        """Writes the program anew, with other folders for some models.

        Args:
            file: to write to.
            images: what is to be where a model is now.
        """
        with self.telling():
            program = self.data[: self._end]
            for blob in sorted(images, key=lambda blob: -blob.at.start):
                if not blob.is_segment:
                    with BytesIO() as packed:
                        images[blob].write(packed)
                        program = exchanged(program, blob.at, packed.getbuffer())
            moved = self._moved(len(program), images)
            file.write(self._told(program, moved))
        end, written = self._end, len(program)
        for old, (start, size) in moved.places.items():
            if moved.base + start == written + old.start - end:
                file.write(self.data[end : old.start])
            else:
                file.write(bytes(moved.base + start - written))
            image = images.get(Blob(old, True))
            if image is None:
                file.write(self.data[old.start : old.stop])
            else:
                image.write(file)
            end, written = old.stop, moved.base + start + size
        file.write(self.data[end:])

    def _header(self) -> tuple[int, int]:
        """Returns where the flatbuffer ends and segments begin; 0 where nothing tells of those."""
        if bytes(self.data[4:8]) != _MAGIC:
            raise ModelFormatError("is not an ExecuTorch program that mlpass knows (ET12)")
        if bytes(self.data[8:12]) != _HEADER:
            return len(self.data), 0
        end, base = (unsigned(self.data, at, 8) for at in (_PROGRAM_SIZE, _SEGMENT_BASE))
        if not end <= (base or end) <= len(self.data):
            raise ModelFormatError(
                f"ends at byte {len(self.data)}, before its segments begin at {base}: "
                "it was not copied whole"
            )
        return end, base

    def _segment(self, table: Table) -> range:
        """Returns where a segment is in the file."""
        start = self._base + table.number(_Program.offset, 8)
        stop = start + table.number(_Program.size, 8)
        if stop > len(self.data):
            raise ModelFormatError(
                f"ends at byte {len(self.data)}, before a segment that goes to {stop}: "
                "it was not copied whole"
            )
        return range(start, stop)

    def _delegates(self) -> Iterator[tuple[str, Delegate]]:
        """Yields each Core ML delegate with its name."""
        count = 0
        for plan in self._root.tables(_Program.plans):
            name = plan.text(_Program.plan_name)
            for number, delegate in enumerate(plan.tables(_Program.plan_delegates)):
                count += 1
                if count > _MOST_DELEGATES:
                    raise ModelFormatError(f"has more than {_MOST_DELEGATES} delegates")
                if delegate.text(_Program.delegate_id) == _CORE_ML:
                    yield f"{name}/{number}", self._delegate(delegate)

    def _delegate(self, table: Table) -> Delegate:
        where = table.table(_Program.delegate_data)
        if where is None:
            raise ModelFormatError("has a delegate without data")
        blob = self._blob(
            where.number(_Program.index, 4), where.number(_Program.location, 1) == _SEGMENT
        )
        found = self.data[blob.at.start : blob.at.stop]
        if bytes(found[:4]) != _REFERENCE:
            return Delegate(blob, None)
        try:
            told = json.loads(bytes(found[4:_LONGEST_REFERENCE]))
            key, function = told["key"], told["functionName"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ModelFormatError(f"does not name a delegate's model ({error!r})") from None
        for named in self._root.tables(_Program.named):
            if named.text(_Program.key) == key:
                return Delegate(self._blob(named.number(_Program.segment, 4), True), str(function))
        raise ModelFormatError(
            f"has no data of the name {brief(key)}, which a delegate's model has"
        )

    def _blob(self, index: int, is_segment: bool) -> Blob:
        if is_segment:
            places = [place for _, place in self._segments]
        else:
            places = [table.vector(_Program.data) for table in self._root.tables(_Program.inline)]
        if index >= len(places):
            raise ModelFormatError(f"has no data of the number {index}, which a delegate has")
        return Blob(places[index], is_segment)

    def _moved(self, size: int, images: Mapping[Blob, Image]) -> _Moved:
        """Returns where the segments are to be, after a flatbuffer of that size."""
        base = self._base
        if size != self._end:
            base = _aligned(size, base) if self._based else size
        places: dict[range, tuple[int, int]] = {}
        end = new_end = 0
        for old in sorted({place for _, place in self._segments}, key=_bounds):
            start = old.start - self._base
            if start < end:
                raise ModelFormatError("has segments that overlap")
            image = images.get(Blob(old, True))
            new_start = start if new_end == end else _aligned(new_end, start)
            places[old] = new_start, len(old) if image is None else image.nbytes
            end, new_end = start + len(old), sum(places[old])
        return _Moved(base, places, new_end - end)

    def _told(self, program: memoryview, moved: _Moved) -> bytes:
        """Returns the flatbuffer with what it tells of its segments."""
        told = bytearray(program)
        tables = Table.root(program).tables(_Program.segments)
        for table, (_, old) in zip(tables, self._segments, strict=True):
            for slot, value in zip(
                (_Program.offset, _Program.size), moved.places[old], strict=True
            ):
                place = table.place(slot)
                if place is not None:
                    told[place : place + 8] = value.to_bytes(8, "little")
                elif value:
                    raise ModelFormatError("does not say where a segment is that is to be moved")
        if bytes(program[8:12]) == _HEADER:
            told[_PROGRAM_SIZE:_SEGMENT_BASE] = len(told).to_bytes(8, "little")
            if self._based:
                told[_SEGMENT_BASE : _SEGMENT_BASE + 8] = moved.base.to_bytes(8, "little")
            total = unsigned(program, _SEGMENTS_SIZE, 8)
            if unsigned(program, _HEADER_SIZE, 4) >= _WITH_TOTAL and total:
                total = (total + moved.growth) % (1 << 64)
                told[_SEGMENTS_SIZE : _SEGMENTS_SIZE + 8] = total.to_bytes(8, "little")
        return bytes(told)


class _Moved(NamedTuple):
    """Where segments are to be.

    Attributes:
        base: what their offsets are from.
        places: offset and size of each, by where it is in the file that was read, in order.
        growth: of what they take together.
    """

    base: int
    places: Mapping[range, tuple[int, int]]
    growth: int


def _bounds(place: range) -> tuple[int, int]:
    return place.start, place.stop


def _aligned(offset: int, like: int) -> int:
    """Returns the first offset from `offset` on that is aligned as another is."""
    alignment = min(like & -like, _LARGEST_PAGE) or 1
    return -(-offset // alignment) * alignment
