"""An ExecuTorch program, a `.pte`, and the Core ML models in it.

The file is a flatbuffer that tells of the methods and of their delegates, and after it segments of
data, of which the flatbuffer has the places. A delegate's data is a segment, or in the flatbuffer
itself; Core ML's is a packed folder, or names one that several methods share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mlpass.errors import ModelFormatError, brief
from mlpass.files import check_regular
from mlpass.program.file_parts import FilePart
from mlpass.program.flatbuffers import Span, Table, unsigned
from mlpass.program.inmemoryfs import Image

_MAGIC, _HEADER = b"ET12", b"eh00"
# In the header, after its own name: its size, that of the flatbuffer, where segments begin.
HEADER_SIZE, PROGRAM_SIZE, SEGMENT_BASE, SEGMENTS_SIZE = 12, 16, 24, 32
_CORE_ML, _REFERENCE = "CoreMLBackend", b"CMJR"
_SEGMENT = 1  # where a delegate's data is, as opposed to in the flatbuffer
_MOST_DELEGATES = 1 << 12
_LONGEST_REFERENCE, _LONGEST_KEY = 1 << 16, 256


class Fields:
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

    at: Span
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
        data: the whole file.
        program: the flatbuffer.
        has_header: whether the flatbuffer has one, which tells of segments.
        end: of the flatbuffer.
        base: where segments begin in the file; None without any.
        segments: where each is in the file.
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
        self.data = FilePart.whole(path)
        with self.telling():
            if bytes(self.data[4:8]) != _MAGIC:
                raise ModelFormatError("is not an ExecuTorch program that mlpass knows (ET12)")
            self.has_header = bytes(self.data[8:12]) == _HEADER
            self.end, self.base = self._ends() if self.has_header else (len(self.data), None)
            self.program = memoryview(bytes(self.data[: self.end]))
            self._root = Table.root(self.program)
            self.segments = [self._segment(each) for each in self._root.tables(Fields.segments)]
            self._inline = [each.vector(Fields.data) for each in self._root.tables(Fields.inline)]
            self._named = {
                each.text(Fields.key): each.number(Fields.segment, 4)
                for each in self._root.tables(Fields.named)
                if each.vector(Fields.key).size <= _LONGEST_KEY  # others are not Core ML's
            }
            self.delegates: dict[str, Delegate] = {}
            for name, delegate in self._delegates():
                if self.delegates.setdefault(name, delegate) is not delegate:
                    raise ModelFormatError(f"has two methods of one name, that of {brief(name)}")
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

    def part(self, span: Span) -> FilePart:
        """Returns what is somewhere in the file."""
        return self.data[span.start : span.stop]

    def image(self, blob: Blob) -> Image:
        """Returns the folder that a delegate has its model in."""
        with self.telling():
            return Image.read(self.part(blob.at))

    @contextmanager
    def telling(self, unpacked: Path | None = None, blob: Blob | None = None) -> Iterator[None]:
        """Makes a ModelFormatError begin with the name of the file, or of a model in it.

        Args:
            unpacked: a folder that nobody knows of, and whose name is left out.
            blob: of the model, which is named where there are several.
        """
        try:
            yield
        except ModelFormatError as error:
            text = str(error)
            if unpacked is not None:
                text = text.replace(f"{unpacked}{os.sep}", "")
            text = text.removeprefix(f"{self.path}: ")
            name = os.fspath(self.path)
            if blob is not None and len(self.models) > 1:
                name += f"/{self.models[blob]}"
            raise ModelFormatError(f"{name}: {text}") from None

    def _ends(self) -> tuple[int, int | None]:
        """Returns where the flatbuffer ends, and where segments begin."""
        head = memoryview(bytes(self.data[: SEGMENTS_SIZE + 8]))
        end, base = (unsigned(head, at, 8) for at in (PROGRAM_SIZE, SEGMENT_BASE))
        if not SEGMENTS_SIZE + 8 <= end <= (base or end) <= len(self.data):
            raise ModelFormatError(
                f"ends at byte {len(self.data)}, and its segments begin at {base}: "
                "it was not copied whole"
            )
        return end, base or None

    def _segment(self, table: Table) -> Span:
        """Returns where a segment is in the file."""
        start = (self.base or self.end) + table.number(Fields.offset, 8)
        stop = start + table.number(Fields.size, 8)
        if stop > len(self.data):
            raise ModelFormatError(
                f"ends at byte {len(self.data)}, before a segment that goes to {stop}: "
                "it was not copied whole"
            )
        return Span(start, stop)

    def _delegates(self) -> Iterator[tuple[str, Delegate]]:
        """Yields each Core ML delegate with its name."""
        count = 0
        for plan in self._root.tables(Fields.plans):
            count, name = count + 1, plan.text(Fields.plan_name)
            for number, delegate in enumerate(plan.tables(Fields.plan_delegates)):
                count += 1
                if count > _MOST_DELEGATES:
                    raise ModelFormatError(f"has more than {_MOST_DELEGATES} delegates")
                if delegate.text(Fields.delegate_id) == _CORE_ML:
                    yield f"{name}/{number}", self._delegate(delegate)

    def _delegate(self, table: Table) -> Delegate:
        where = table.table(Fields.delegate_data)
        if where is None:
            raise ModelFormatError("has a delegate without data")
        blob = self._blob(
            where.number(Fields.index, 4), where.number(Fields.location, 1) == _SEGMENT
        )
        found = bytes(self.part(blob.at)[:_LONGEST_REFERENCE])
        if not found.startswith(_REFERENCE):
            return Delegate(blob, None)
        try:
            told = json.loads(found[len(_REFERENCE) :])
            key, function = told["key"], told["functionName"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ModelFormatError(f"does not name a delegate's model ({brief(error)})") from None
        if not (isinstance(key, str) and isinstance(function, str)) or key not in self._named:
            raise ModelFormatError(
                f"has no data of the name {brief(key)}, which a delegate's model has"
            )
        return Delegate(self._blob(self._named[key], True), function)

    def _blob(self, index: int, is_segment: bool) -> Blob:
        places = self.segments if is_segment else self._inline
        if index >= len(places):
            raise ModelFormatError(f"has no data of the number {index}, which a delegate has")
        return Blob(places[index], is_segment)
