"""An ExecuTorch program written anew, with other Core ML models in the place of its own."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import IO, NamedTuple

from mlpass.errors import ModelFormatError
from mlpass.program.flatbuffers import Span, Table, unsigned
from mlpass.program.inmemoryfs import Image, copy_content
from mlpass.program.pte import (
    HEADER_SIZE,
    PROGRAM_SIZE,
    SEGMENT_BASE,
    SEGMENTS_SIZE,
    Blob,
    Fields,
    Pte,
)
from mlpass.program.pte_inline import exchanged

_WITHOUT_TOTAL = 24  # bytes of an older header, which does not tell what segments take together
_LARGEST_PAGE = 1 << 14  # segments are aligned so that they can be mapped to memory


class _Moved(NamedTuple):
    """Where segments are to be.

    Attributes:
        base: where they begin in the file.
        places: offset from there, and size, by where they were in the file; in order.
        growth: of what they take together.
    """

    base: int
    places: Mapping[Span, tuple[int, int]]
    growth: int


def write_pte(pte: Pte, file: IO[bytes], images: Mapping[Blob, Image]) -> None:
    """Writes a program; whatever is not a model's data or tells of its place stays as it is.

    Raises:
        ModelFormatError: the program is broken.
        OSError: it cannot be written, or a file in a folder cannot be read.
    """
    with pte.telling():
        program = _exchanged(pte, images)
        moved = _moved(pte, len(program), images)
        file.write(_told(pte, program, moved))
    end, written = pte.end, len(program)  # of what is copied, and of what is written
    for old, (offset, size) in moved.places.items():
        gap = moved.base + offset - written
        copy_content(pte.data[end : old.start] if gap == old.start - end else bytes(gap), file)
        image = images.get(Blob(old, True))
        if image is None:
            copy_content(pte.part(old), file)
        else:
            image.write(file)
        end, written = old.stop, moved.base + offset + size
    copy_content(pte.data[end:], file)


def written_nbytes(pte: Pte, images: Mapping[Blob, Image]) -> int:
    """Returns how many bytes `write_pte` would write.

    Raises:
        ModelFormatError: the program is broken.
        OSError: a file in a folder cannot be read.
    """
    with pte.telling():
        size = len(_exchanged(pte, images))
        moved = _moved(pte, size, images)
    end, written = pte.end, size
    for old, (offset, nbytes) in moved.places.items():
        end, written = old.stop, moved.base + offset + nbytes
    return written + len(pte.data) - end


def _exchanged(pte: Pte, images: Mapping[Blob, Image]) -> memoryview:
    """Returns the flatbuffer of a program, with folders where it holds models itself."""
    program = pte.program
    for blob in sorted(images, reverse=True):  # what is before another is where it was
        if not blob.is_segment:
            packed = BytesIO()
            images[blob].write(packed)
            program = exchanged(program, blob.at, packed.getbuffer())
    return program


def _moved(pte: Pte, size: int, images: Mapping[Blob, Image]) -> _Moved:
    """Returns where segments are to be after a flatbuffer of that size."""
    before = pte.base or pte.end
    base = before + size - pte.end
    if pte.base is not None and size != pte.end:
        base = _aligned(size, pte.base)
    places: dict[Span, tuple[int, int]] = {}
    end = new_end = 0
    for old in sorted(set(pte.segments)):
        offset = old.start - before
        if offset < end:
            raise ModelFormatError("has segments that overlap")
        image = images.get(Blob(old, True))
        new_offset = offset if new_end == end else _aligned(new_end, offset)
        places[old] = new_offset, old.size if image is None else image.nbytes
        end, new_end = offset + old.size, sum(places[old])
    return _Moved(base, places, new_end - end)


def _told(pte: Pte, program: memoryview, moved: _Moved) -> bytearray:
    """Returns a flatbuffer that tells where segments are to be."""
    told = bytearray(program)
    tables = Table.root(program).tables(Fields.segments)
    for table, old in zip(tables, pte.segments, strict=True):
        for slot, value in zip((Fields.offset, Fields.size), moved.places[old], strict=True):
            place = table.place(slot)
            if place is not None:
                _put(told, place, value)
            elif value:
                raise ModelFormatError("does not tell where a segment is that is to be moved")
    if pte.has_header:
        _put(told, PROGRAM_SIZE, len(told))
        if pte.base is not None:
            _put(told, SEGMENT_BASE, moved.base)
        total = unsigned(program, SEGMENTS_SIZE, 8)
        if unsigned(program, HEADER_SIZE, 4) > _WITHOUT_TOTAL and total:
            _put(told, SEGMENTS_SIZE, max(0, total + moved.growth))
    return told


def _put(data: bytearray, at: int, number: int) -> None:
    data[at : at + 8] = number.to_bytes(8, "little")


def _aligned(offset: int, like: int) -> int:
    """Returns the first offset from `offset` on that is aligned as another is."""
    alignment = min(like & -like, _LARGEST_PAGE) or 1
    return -(-offset // alignment) * alignment
