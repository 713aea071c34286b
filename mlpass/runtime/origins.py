"""Where NaN and infinities come from: the op that first makes them on a sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from mlpass.errors import ExecutionError
from mlpass.program.ir import Op, Value
from mlpass.program.reads import values_of
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.failures import title_of
from mlpass.runtime.given import steps_for
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.samples import Sample

_KINDS = ("NaN", "inf")


class _Makers:
    """A listener that keeps which ops give what is not finite, and which of them make it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._given: list[bool] = []
        self.giving: dict[str, dict[Value, Op]] = {kind: {} for kind in _KINDS}
        self.making: dict[str, set[Op]] = {kind: set() for kind in _KINDS}

    def before(self, op: Op, inputs: Mapping[str, object]) -> None:
        self._given = self._held(inputs.values())

    def after(self, op: Op, outputs: tuple[object, ...]) -> None:
        for value, made in zip(op.outputs, outputs, strict=True):
            for kind, given, held in zip(_KINDS, self._given, self._held([made]), strict=True):
                if held:
                    self.giving[kind].setdefault(value, op)
                if held and not given:
                    self.making[kind].add(op)

    def _held(self, values: Iterable[object]) -> list[bool]:
        """Returns whether any array among some values holds each of the kinds."""
        parts = (one for each in values for one in (each if isinstance(each, tuple) else (each,)))
        arrays = [self._backend.to_numpy(one) for one in parts if hasattr(one, "shape")]
        floats = [array for array in arrays if array.dtype.kind == "f"]
        return [any(holds(array).any() for array in floats) for holds in (np.isnan, np.isinf)]


def origin_of(interpreter: Interpreter, sample: Sample, number: int, op: Op) -> str:
    """Returns which op first makes the NaN that reaches an op, or else the infinity, in words.

    It is followed back from that op, so that what goes elsewhere does not count. Nothing is said
    where it comes with the sample, or no op is seen to make it.
    """
    assert interpreter.backend is not None  # Core ML shows nothing
    makers = _Makers(interpreter.backend)
    interpreter.listeners.append(makers)
    state = interpreter.new_state(sample)
    try:
        for step in steps_for(sample, interpreter, number):
            interpreter.take(step, state)
    except ExecutionError:
        pass  # what was seen before is enough
    finally:
        interpreter.listeners.remove(makers)
    for kind, made_by in makers.giving.items():
        origin: Op | None = None
        seen, reached = set[Op](), _source(op, made_by)
        while reached is not None and reached not in seen:
            seen.add(reached)
            origin, reached = reached, _source(reached, made_by)
        if origin in makers.making[kind]:
            return f"; the first to make {kind} is {title_of(origin)}{_cure(origin, kind)}"
    return ""


def _source(op: Op, made_by: Mapping[Value, Op]) -> Op | None:
    """Returns the op that made what is not finite among what an op reads, or nests."""
    inner = (one for block in op.blocks for one in block.outputs)
    return next((made_by[one] for one in (*values_of(op), *inner) if one in made_by), None)


def _cure(op: Op, kind: str) -> str:
    if kind != "NaN" or op.type not in ("softmax", "sub", "real_div", "log_softmax"):
        return ""
    return ", as where a mask of -inf bans a whole row: ban with a finite number, such as -1e4"
