"""Streams: what the output of a weight is added to, as in a residual network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpass.program.ir import Constant, Op, Value
from mlpass.runtime.function_plan import FunctionPlan
from mlpass.runtime.ops import Source
from mlpass.runtime.stretches import uses_of

_SAME = ("cast", "identity")  # ops that leave each element what and where it is


def find_streams(plan: FunctionPlan) -> dict[Op, Value]:
    """Returns for each op of a function whose output is added to a stream that value.

    The output must go nowhere else, and the stream be there before the op runs: so it does not
    depend on it. Ops in control flow have none.
    """
    steps, uses = plan.block.steps, uses_of(plan)
    places = {value: place for place, step in enumerate(steps) for value in step.op.outputs}
    found = {}
    for place, step in enumerate(steps):
        if len(step.op.outputs) == 1:
            stream = _stream_of(step.op, plan, uses)
            if stream is not None and places.get(stream, -1) < place:
                found[step.op] = stream
    return found


def _stream_of(op: Op, plan: FunctionPlan, uses: Mapping[Value, Sequence[int]]) -> Value | None:
    """Returns what an op's output is added to, of the same shape; past a bias."""
    (made,) = op.outputs
    value, steps = made, plan.block.steps
    while True:
        readers = uses.get(value, ())
        if len(readers) != 1 or readers[0] == len(steps):
            return None
        reader = steps[readers[0]].op
        if reader.type not in (*_SAME, "add") or reader.blocks:
            return None
        others: list[Source] = [
            source
            for sources in (reader.inputs.get("x", ()), reader.inputs.get("y", ()))
            for source in sources
            if source is not value
        ]
        (value,) = reader.outputs
        if reader.type in _SAME or _is_bias(others, plan):
            continue
        (other,) = others if len(others) == 1 else (None,)
        alike = isinstance(other, Value) and _shape(other) == _shape(made) == _shape(value)
        return other if isinstance(other, Value) and alike else None


def _is_bias(others: list[Source], plan: FunctionPlan) -> bool:
    """Returns whether nothing but constants are added."""
    return bool(others) and all(
        isinstance(other, Constant) or other in plan.makers for other in others
    )


def _shape(value: Value) -> object:
    return getattr(value.type, "shape", None)
