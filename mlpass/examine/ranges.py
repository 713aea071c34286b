"""What fp16 does to each value of a model on samples: overflow, underflow, sums on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlpass.examine.matching import running
from mlpass.examine.vanishing import Vanishing
from mlpass.program.ir import Op
from mlpass.report.check import Hazard
from mlpass.runtime.declared import Results, is_fp16, walk
from mlpass.runtime.failures import of_sample
from mlpass.runtime.function_plan import OpPlan
from mlpass.runtime.given import steps_for
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.ops import label_of
from mlpass.runtime.samples import Sample

LARGEST = 65504.0  # of fp16
_RANGE = "IEEE 754, binary16: up to 65,504, and nothing below 6e-8"
_FP32 = (
    "convert with this op in fp32: "
    "compute_precision=ct.transform.FP16ComputePrecision(op_selector=...)"
)
_SCALE = f"divide what goes in by its largest magnitude, which most norms do not notice; or {_FP32}"
_ENLARGE = f"multiply what goes in, and divide by the same where it is large again; or {_FP32}"
# Ops that add up many terms, and how what they make tells of the sum: from it and their number.
_SUMS: dict[str, Callable[[NDArray[np.generic], float], NDArray[np.generic]]] = {
    "reduce_mean": lambda made, count: np.abs(made) * count,
    "reduce_l2_norm": lambda made, _: np.square(made),
}


@dataclass
class _Range:
    """What was seen of what one op makes, in fp32."""

    largest: float = 0.0
    summed: float = 0.0
    nans: int = 0

    def add(self, values: NDArray[np.generic]) -> None:
        """Adds what one run has made."""
        sizes = np.abs(values)
        self.nans += int(np.count_nonzero(np.isnan(sizes)))
        finite = sizes[np.isfinite(sizes)]
        self.largest = max(self.largest, float(finite.max(initial=0.0)))


def range_hazards(interpreter: Interpreter, samples: Sequence[Sample]) -> Iterator[Hazard]:
    """Yields what the values of a model on samples are too large or too small for.

    Each op is judged on what fp32 gives it: an overflow is told of the op that makes it, not of
    those after it.

    Raises:
        ExecutionError: an op failed.
        InputError: a sample does not fit.
    """
    backend = interpreter.backend
    assert backend is not None
    seen: dict[Op, _Range] = {}
    each_vanishing = {runner: Vanishing(runner) for runner in interpreter.members}

    def look(vanishing: Vanishing, step: OpPlan, run: Callable[..., Results]) -> Results:
        results = run()
        vanishing.follow(step, run, results)
        for output, one in zip(step.op.outputs, results, strict=True):
            values = backend.to_numpy(one) if hasattr(one, "shape") else np.zeros(0, np.int32)
            if values.dtype.kind == "f":
                found = seen.setdefault(step.op, _Range())
                found.add(values)
                if step.op.type in _SUMS and is_fp16(output):
                    count = _terms(step.op, values.size)
                    summed = _SUMS[step.op.type](values, count)
                    found.summed = max(found.summed, float(np.nanmax(summed, initial=0.0)))
        return results

    for number, sample in enumerate(tqdm(samples, desc="checking", unit="sample", disable=None)):
        state, steps = interpreter.new_state(sample), steps_for(sample, interpreter, number)
        for place, inputs in enumerate(steps):
            runner = interpreter.runner(inputs)
            own = None if state is None else state.of(runner.states)
            with of_sample(number, place, len(steps)):
                walk(runner, inputs, own, partial(look, each_vanishing[runner]))
    for runner, vanishing in each_vanishing.items():
        yield from _found(runner, seen, vanishing.lost())


def _found(
    interpreter: Interpreter, seen: Mapping[Op, _Range], lost: Mapping[Op, float]
) -> Iterator[Hazard]:
    """Yields what was seen of the ops of a function."""
    for part in interpreter.parts:
        for op in running(part.plan.function.block):
            if op in seen:
                yield from _hazards(op, seen[op])
            if op in lost:
                share = f"{lost[op]:.0%}" if lost[op] > 0.01 else "some"
                text = f"{share} of what {op.type} makes becomes 0 in fp16, and the outputs tell"
                name = (label_of(op),)
                yield Hazard("warning", "underflow", None, text, _ENLARGE, _RANGE, name)


def _terms(op: Op, made: int) -> float:
    """Returns how many elements of its input each element of a reduction is made of."""
    (source,) = op.inputs["x"]
    size = getattr(source.type, "size", made)
    return max(1.0, size / max(1, made))


def _hazards(op: Op, found: _Range) -> Iterator[Hazard]:
    name, fp16 = (label_of(op),), any(map(is_fp16, op.outputs))
    if found.nans:
        text = f"{op.type} makes values that are not numbers"
        yield Hazard("error", "not a number", None, text, None, "seen on the samples", name)
    if fp16 and found.largest > LARGEST:
        text = f"{op.type} makes {found.largest:,.0f}, which fp16 cannot hold: it becomes infinite"
        yield Hazard("error", "overflow", None, text, _SCALE, _RANGE, name)
    elif fp16 and found.summed > LARGEST:
        text = (
            f"{op.type} adds up to {found.summed:,.0f} on the way: infinite where that is done in "
            "fp16"
        )
        yield Hazard("warning", "sum", "ane", text, _SCALE, _RANGE, name)
