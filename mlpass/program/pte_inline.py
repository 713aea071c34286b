"""Data in the flatbuffer of an ExecuTorch program, exchanged for data of another size.

What comes after it moves, so every offset that leads across it is another: all tables are looked
at, by a schema of what refers to what.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mlpass.errors import ModelFormatError
from mlpass.program.flatbuffers import Span, Table, followed

# By table, its fields in order: "-" refers to nothing, "*" to numbers or a text, a name to a table,
# one in brackets to a vector of them, and one with "?" to a table of the kind that the field before
# it tells.
_TABLES = {
    "Program": "- [Plan] [Data] [Data] [Numbers] Subsegments [Subsegments] [Named]",
    "Plan": "* Texts [Value] * * [Chain] [Texts] [Delegate] * [Numbers]",
    "Data": "*",
    "Numbers": "- - -",
    "Subsegments": "- *",
    "Named": "* -",
    "Texts": "* *",
    "Value": "- ?Value",
    "Tensor": "- - * * - - Numbers - - TensorInfo",
    "TensorInfo": "- * - - -",
    "Delegate": "* Numbers [Specification]",
    "Specification": "* *",
    "Chain": "* * [Instruction] [Frames]",
    "Instruction": "- ?Instruction",
    "Call": "- *",
    "Frames": "[Frame]",
    "Frame": "* - * *",
}
_KINDS = {
    "?Value": "Numbers Numbers Numbers Numbers Tensor Data Data Data Data Data Data",
    "?Instruction": "Call Call Numbers Numbers Numbers",
}
_ALIGNMENT = 256  # of what comes after, kept; nothing in a program asks for as much
_MOST_TABLES = 1 << 21


class _Offset(NamedTuple):
    """An offset in a flatbuffer.

    Attributes:
        place: where it is.
        target: what it leads to.
        sign: -1 where it counts backwards, as those do from a table to what tells of its fields.
    """

    place: int
    target: int
    sign: int = 1


def exchanged(program: memoryview, vector: Span, data: memoryview) -> memoryview:
    """Returns a program with other data in the place of a vector of bytes.

    Raises:
        ModelFormatError: it has tables that the schema does not tell of, or that overlap; or it
            would be too large.
    """
    padding = (vector.size - len(data)) % _ALIGNMENT
    shift = len(data) + padding - vector.size
    head, tail = bytearray(program[: vector.start]), bytearray(program[vector.stop :])
    try:
        head[-4:] = len(data).to_bytes(4, "little")
        for place, target, sign in _offsets(program):
            if any(vector.start <= each < vector.stop for each in (place, target)):
                raise ModelFormatError("has a table within a delegate's data")
            crossing = (target >= vector.stop) - (place >= vector.stop)
            if not crossing:
                continue
            distance = sign * (target - place + crossing * shift)
            part, at = (head, place) if place < vector.start else (tail, place - vector.stop)
            part[at : at + 4] = distance.to_bytes(4, "little", signed=sign < 0)
    except OverflowError:
        raise ModelFormatError(
            "would hold more data than fits there; export with segments"
        ) from None
    return memoryview(b"".join((head, data, bytes(padding), tail)))


def _offsets(program: memoryview) -> Iterator[_Offset]:
    """Yields every offset in a program."""
    wanted, seen = [(0, "Program")], set[tuple[int, str]]()
    while wanted:
        place, kind = wanted.pop()
        table = Table(program, followed(program, place))
        yield _Offset(place, table.at)
        if kind == "*" or (table.at, kind) in seen:
            continue
        seen.add((table.at, kind))
        if len(seen) > _MOST_TABLES:
            raise ModelFormatError(f"has more than {_MOST_TABLES} tables")
        yield _Offset(table.at, table.vtable, -1)
        fields = _TABLES[kind].split()
        if table.slots > len(fields):
            raise ModelFormatError(
                "was written by a newer ExecuTorch than mlpass knows; export with segments"
            )
        for slot, field in enumerate(fields):
            at = table.place(slot)
            if at is None or field == "-":
                continue
            if field.startswith("["):
                yield _Offset(at, followed(program, at))
                wanted += [(each, field[1:-1]) for each in table.references(slot)]
            elif field.startswith("?"):
                kinds, number = _KINDS[field].split(), table.number(slot - 1, 1)
                if not 0 < number <= len(kinds):
                    raise ModelFormatError(
                        f"has a value of kind {number}, which mlpass does not know"
                    )
                wanted.append((at, kinds[number - 1]))
            else:
                wanted.append((at, field))
