"""What differs between an op and its match in another program: weights, attributes, types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mlpass.examine.compare import Tally
from mlpass.examine.matching import PASSED_ON, running
from mlpass.program.ir import Constant, Op, TensorType, Value
from mlpass.program.reads import values_of
from mlpass.runtime.interpreter import Interpreter, Part
from mlpass.runtime.ops import Source, label_of

_SMALL = 8  # elements that a text shows


def differences(
    first: Interpreter, second: Interpreter, like: Mapping[Value, Value]
) -> dict[Op, tuple[str, ...]]:
    """Returns what differs, by op of the second model."""
    makers = {
        output: (op, part)
        for part in first.parts
        for op in running(part.plan.function.block)
        for output in op.outputs
    }
    found = {}
    for part in second.parts:
        alone: dict[Value, Op] = {}  # what the first model does not have makes these
        for op in running(part.plan.function.block):
            matches = [makers[like[one]] for one in op.outputs if like.get(one) in makers]
            if not matches:
                alone.update(dict.fromkeys(op.outputs, op))
            if matches:
                added = tuple(_added(op, alone))
                match, its = matches[0]
                moved = () if added else _moved(_read(match, its, {}), _read(op, part, like))
                found[op] = (*added, *moved, *_of_ops(match, its, op, part))
    return found


def _added(op: Op, alone: Mapping[Value, Op]) -> Iterator[str]:
    for value in values_of(op):
        if value in alone and alone[value] is not op:
            yield f"after {alone[value].type} {label_of(alone[value])}, which is new"


def _read(op: Op, part: Part, like: Mapping[Value, Value]) -> dict[str, list[str]]:
    """Returns the names of what a run gives an op, by parameter: those of their matches."""
    return {
        parameter: [
            like.get(source, source).name
            for source in sources
            if isinstance(source, Value) and source not in part.constants
        ]
        for parameter, sources in op.inputs.items()
    }


def _moved(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> Iterator[str]:
    """Yields the parameters that read other values, or in another order."""
    for parameter, names in before.items():
        others = after.get(parameter, [])
        if names != others and len(names) == len(others):
            yield f"{parameter}: {', '.join(names)} -> {', '.join(others)}"


def _of_ops(like: Op, like_part: Part, op: Op, part: Part) -> Iterator[str]:
    if like.type != op.type and op.type in PASSED_ON:
        yield ", ".join([f"a new {op.type}", *_of_types(like, op)])
        return
    if like.type != op.type:
        yield f"type {like.type} -> {op.type}"
    for parameter in dict.fromkeys((*like.inputs, *op.inputs)):
        before = _stated(like_part, like, parameter)
        after = _stated(part, op, parameter)
        if before is not None or after is not None:
            yield from _of_values(parameter, before, after)
    yield from _of_types(like, op)


def _of_types(like: Op, op: Op) -> Iterator[str]:
    for outputs in zip(like.outputs, op.outputs, strict=False):
        dtypes = [each.type.dtype for each in outputs if isinstance(each.type, TensorType)]
        if len(set(dtypes)) > 1:
            yield " -> ".join(dtypes)


def _stated(part: Part, op: Op, parameter: str) -> object:
    """Returns what the program itself gives to a parameter; None where a run makes that."""
    sources: tuple[Source, ...] = op.inputs.get(parameter, ())
    if len(sources) != 1 or not (isinstance(sources[0], Constant) or sources[0] in part.constants):
        return None
    return part.constants[sources[0]]


def _of_values(parameter: str, before: object, after: object) -> Iterator[str]:
    if before is None or after is None:
        yield f"{parameter}: {_text(before)} -> {_text(after)}"
        return
    one, other = _array(before), _array(after)
    small = one.size <= (1 if one.dtype.kind == "f" else _SMALL)
    if one.dtype.kind not in "fiub" or one.shape != other.shape or small:
        if one.shape != other.shape or not np.array_equal(one, other):
            yield f"{parameter}: {_text(before)} -> {_text(after)}"
        return
    tally = Tally()
    tally.add(one, other)
    if tally.noise > 0:
        yield f"{parameter}: {tally.snr:.1f} dB"


def _array(value: Any) -> Any:
    return np.asarray(value.cpu() if hasattr(value, "cpu") else value)


def _text(value: object) -> str:
    if value is None:
        return "none"
    array = _array(value)
    if array.size > _SMALL:
        return f"of shape {array.shape}"
    return str(array[()] if array.ndim == 0 else array.tolist())
