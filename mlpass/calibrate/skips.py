"""Streams: what the output of a weight is added to, as in a residual network."""

from __future__ import annotations

from collections.abc import Sequence

from mlpass.program.ir import Constant, Op, Value
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.ops import Source, is_float
from mlpass.runtime.row import Row

# A stream under each of its names, as an op makes it first. Wherever it is still to be read, it is
# there under one of them at least.
Stream = Sequence[Value]

_SAME = ("cast", "identity")  # ops that leave each element what and where it is


def find_streams(runner: Interpreter) -> dict[Op, Stream]:
    """Returns for each op of a model whose output is added to a stream that one.

    The output must go nowhere else, and the stream be there before the op runs: so it does not
    depend on it. Of programs in a row, the stream may come from one before, and be added to in one
    after. Ops in control flow have none.

    Args:
        runner: of the model, or of one of its functions.
    """
    row = Row(runner)
    places = {value: place for place, op in enumerate(row.ops) for value in op.outputs}
    found = {}
    for place, op in enumerate(row.ops):
        other = _other_of(op, row) if len(op.outputs) == 1 else None
        stream = () if other is None else _stream_of(other, row)
        if stream and places.get(stream[0], -1) < place:
            found[op] = tuple(value for value in stream if row.shows(value, op))
    return {op: stream for op, stream in found.items() if stream}


def _other_of(op: Op, row: Row) -> Value | None:
    """Returns what an op's output is added to, of the same shape; past a bias."""
    (made,) = op.outputs
    value = made
    while True:
        readers = row.readers.get(value, ())
        if len(readers) != 1 or value in row.left:
            return None
        (reader,) = readers
        if reader.type not in (*_SAME, "add") or reader.blocks:
            return None
        others: list[Source] = [
            source
            for sources in (reader.inputs.get("x", ()), reader.inputs.get("y", ()))
            for source in map(row.origin, sources)
            if source is not value
        ]
        (value,) = reader.outputs
        if reader.type in _SAME or _is_bias(others, row):
            continue
        (other,) = others if len(others) == 1 else (None,)
        alike = isinstance(other, Value) and _shape(other) == _shape(made) == _shape(value)
        return other if isinstance(other, Value) and alike else None


def _stream_of(value: Value, row: Row) -> Stream:
    """Returns a value under each of its names: what it is a cast of, and so on."""
    names = [value]
    while (maker := row.makers.get(names[0])) is not None and maker.type in _SAME:
        source = next(map(row.origin, maker.inputs.get("x", ())), None)
        if not isinstance(source, Value) or not is_float(source.type):
            break
        names.insert(0, source)
    return names


def _is_bias(others: list[Source], row: Row) -> bool:
    """Returns whether nothing but constants are added."""
    return bool(others) and all(
        isinstance(other, Constant) or other in row.stated for other in others
    )


def _shape(value: Value) -> object:
    return getattr(value.type, "shape", None)
