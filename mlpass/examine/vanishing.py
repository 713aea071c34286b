"""Where fp16 makes values 0 and something is lost by it: a second run beside the first tells.

A value that differs by zeros before it has a shadow: what it would be with them. The shadow ends
where fp16 would round as much away: that of an epsilon ends in the sum that it is added to. What
reaches an output of the model, or a state, is lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ExecutionError
from mlpass.examine.compare import Tally
from mlpass.program.ir import Op, TensorType, Value
from mlpass.program.reads import values_of
from mlpass.runtime.declared import Results, is_fp16
from mlpass.runtime.function_plan import OpPlan
from mlpass.runtime.interpreter import Interpreter

_SMALLEST = 2.0**-25  # of fp16, and half of the least that is not 0: what is below becomes 0
_ROUNDING = 2.0**-11  # of fp16, relative
_WRITES = frozenset({"write_state", "coreml_update_state"})
# Ops that add up products: an element is no more exact than the largest along this axis.
_SUMS = {"linear": -1, "matmul": -1, "einsum": -1, "conv": 1, "conv_transpose": 1}


class _Shadow(NamedTuple):
    """What a value would be, and the ops whose zeros make it so."""

    value: object
    ops: frozenset[Op]


@dataclass
class _End:
    """What was seen of an output, or of what a state is given."""

    signal: float = 0.0
    noise: dict[frozenset[Op], float] = field(default_factory=lambda: defaultdict(float))


class Vanishing:
    """The shadows of a model's values as it runs, and what came of them."""

    def __init__(self, interpreter: Interpreter) -> None:
        """Has seen nothing yet."""
        assert interpreter.backend is not None
        self._backend = interpreter.backend
        self._shadows: dict[Value, _Shadow] = {}
        self._counts: dict[Op, NDArray[np.int64]] = {}  # of elements not 0, and of those made 0
        self._wrong: set[Op] = set()
        self._ends: dict[Value, _End] = {}
        for part in interpreter.parts:
            block = part.plan.function.block
            writes = [value for op in block.ops if op.type in _WRITES for value in _read_by(op)]
            self._ends |= {value: _End() for value in (*block.outputs, *writes)}

    def follow(self, step: OpPlan, run: Callable[..., Results], results: Results) -> None:
        """Takes in what an op has made.

        Args:
            step: the op.
            run: runs it again, with other values in the place of those that it is given.
            results: what it has made, in fp32.
        """
        if step.op.type not in _WRITES:
            read = dict(self._shadows)
            if not step.blocks:
                read = {one: read[one] for one in _read_by(step.op) if one in read}
            ops = frozenset(op for shadow in read.values() for op in shadow.ops)
            others = results
            try:
                if read:
                    with np.errstate(all="ignore"):
                        others = run({value: shadow.value for value, shadow in read.items()})
            except ExecutionError:
                self._wrong |= ops
            for output, exact, other in zip(step.op.outputs, results, others, strict=True):
                self._add(step.op, output, (exact, other), ops)
        for value in step.release:
            self._shadows.pop(value, None)

    def lost(self) -> dict[Op, float]:
        """Returns the ops that lose something by zeros, each with the share of what becomes 0."""
        for end in self._ends.values():
            for ops, noise in end.noise.items():
                if noise > _ROUNDING**2 * end.signal:
                    self._wrong |= ops
        return {op: gone / of for op, (of, gone) in self._counts.items() if op in self._wrong}

    def _add(self, op: Op, output: Value, pair: Results, ops: frozenset[Op]) -> None:
        """Takes in an output as it is and as its shadow has it."""
        if not all(hasattr(one, "shape") for one in pair):  # a list, whose items differ
            if ops:
                self._shadows[output] = _Shadow(pair[1], ops)
            return
        wanted, made = (self._backend.to_numpy(one) for one in pair)
        if wanted.shape != made.shape:
            self._wrong |= ops
            return
        if is_fp16(output):
            counts = np.count_nonzero(wanted), np.count_nonzero(_vanishes(wanted))
            self._counts[op] = self._counts.get(op, 0) + np.array(counts)
            gone = _vanishes(made)
            if gone.any():
                made, ops = np.where(gone, np.zeros_like(made), made), ops | {op}
        tells = bool(ops) and _differ(wanted, made, _SUMS.get(op.type))
        if tells:
            self._shadows[output] = _Shadow(self._backend.from_numpy(made), ops)
        if output in self._ends:
            tally, end = Tally(), self._ends[output]
            tally.add(wanted, made if tells else wanted)
            end.signal += tally.signal
            end.noise[ops] += tally.noise


def _read_by(op: Op) -> Iterator[Value]:
    """Yields the values that an op reads, but for states."""
    return (value for value in values_of(op) if isinstance(value.type, TensorType))


def _vanishes(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    gone: NDArray[np.bool_] = (values != 0) & (np.abs(values) < _SMALLEST)
    return gone


def _differ(wanted: NDArray[np.generic], made: NDArray[np.generic], axis: int | None) -> bool:
    """Returns whether any element is further off than fp16 rounds.

    Args:
        wanted: the values.
        made: in their place.
        axis: along which the largest says how exact an element is; None for each by itself.
    """
    if wanted.dtype.kind != "f":
        return not np.array_equal(wanted, made)
    sizes = np.abs(wanted)
    scale = sizes if axis is None or wanted.ndim < 2 else sizes.max(axis, keepdims=True, initial=0)
    with np.errstate(invalid="ignore"):
        near = (wanted == made) | (np.abs(np.subtract(made, wanted)) <= _ROUNDING * scale)
    return not bool((near | (np.isnan(wanted) & np.isnan(made))).all())
