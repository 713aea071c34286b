"""Flatbuffers, of which the fields are read that are asked for.

Nothing in a file is trusted: what is read lies within it, and no vector is longer than it can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mlpass.errors import ModelFormatError

_MOST_TABLES = 1 << 20  # in one vector
_LONGEST_TEXT = 1000
_CURE = "it is broken, or was not copied whole"


class Span(NamedTuple):
    """A part of some data, from its first byte to that after its last."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.stop - self.start


@dataclass(frozen=True)
class Table:
    """A table in a flatbuffer."""

    data: memoryview
    at: int

    @classmethod
    def root(cls, data: memoryview) -> Table:
        """Returns the table that a buffer is about."""
        return cls(data, followed(data, 0))

    def place(self, slot: int) -> int | None:
        """Returns where a field is, None where the table does not have it."""
        vtable = self.vtable
        entry = 4 + 2 * slot
        if entry + 2 > unsigned(self.data, vtable, 2):
            return None
        offset = unsigned(self.data, vtable + entry, 2)
        return self.at + offset if offset else None

    @property
    def vtable(self) -> int:
        """Where it is told which fields there are."""
        distance = unsigned(self.data, self.at, 4)
        return self.at - (distance - (1 << 32) if distance >= 1 << 31 else distance)

    @property
    def slots(self) -> int:
        """How many fields it might have, by the schema that it was written with."""
        return max(0, unsigned(self.data, self.vtable, 2) - 4) // 2

    def number(self, slot: int, size: int) -> int:
        """Returns an unsigned number of so many bytes."""
        place = self.place(slot)
        return 0 if place is None else unsigned(self.data, place, size)

    def vector(self, slot: int) -> Span:
        """Returns where the bytes of a vector of bytes, or of a text, are."""
        place = self.place(slot)
        if place is None:
            return Span(0, 0)
        start = followed(self.data, place)
        size = unsigned(self.data, start, 4)
        if size > len(self.data) - start - 4:
            raise ModelFormatError(f"{size} bytes at {start + 4} go past its end: {_CURE}")
        return Span(start + 4, start + 4 + size)

    def text(self, slot: int) -> str:
        """Returns a text that is a name."""
        found = self.vector(slot)
        if found.size > _LONGEST_TEXT:
            raise ModelFormatError(f"a name of {found.size} bytes is too long for one")
        return bytes(self.data[found.start : found.stop]).decode(errors="replace")

    def table(self, slot: int) -> Table | None:
        """Returns a table that it refers to."""
        place = self.place(slot)
        return None if place is None else Table(self.data, followed(self.data, place))

    def tables(self, slot: int) -> list[Table]:
        """Returns the tables of a vector of them."""
        return [Table(self.data, followed(self.data, place)) for place in self.references(slot)]

    def references(self, slot: int) -> range:
        """Returns the places in a vector of tables that lead to each."""
        place = self.place(slot)
        if place is None:
            return range(0)
        start = followed(self.data, place)
        count = unsigned(self.data, start, 4)
        if count > min(_MOST_TABLES, (len(self.data) - start) // 4):
            raise ModelFormatError(f"the vector at {start} cannot have {count} elements: {_CURE}")
        return range(start + 4, start + 4 + 4 * count, 4)


def unsigned(data: memoryview, at: int, size: int) -> int:
    """Returns an unsigned number of so many bytes.

    Raises:
        ModelFormatError: it is not within the buffer.
    """
    if not 0 <= at <= len(data) - size:
        raise ModelFormatError(
            f"what is to be at {at} is not within its {len(data)} bytes: {_CURE}"
        )
    return int.from_bytes(data[at : at + size], "little")


def followed(data: memoryview, place: int) -> int:
    """Returns what an offset at a place leads to."""
    return place + unsigned(data, place, 4)
