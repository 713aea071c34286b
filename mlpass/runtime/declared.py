"""A run an op at a time, and its values as the types that the program declares can hold them.

The Interpreter computes fp16 in fp32, as a processor may. Rounded, what a type cannot hold is lost,
so that a type that is too narrow shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from mlpass.program.ir import TensorType, Value
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.execute import Run, Values
from mlpass.runtime.features import check_names, read_input, restored, write_output
from mlpass.runtime.function_plan import OpPlan
from mlpass.runtime.interpreter import Interpreter, bind
from mlpass.runtime.ops import Source
from mlpass.runtime.samples import Inputs
from mlpass.runtime.state import State

Results = tuple[Any, ...]
_NONE: Mapping[Source, object] = {}


def walk(
    interpreter: Interpreter,
    inputs: Inputs,
    state: State | None,
    take: Callable[[OpPlan, Callable[..., Results]], Results],
) -> None:
    """Runs a model's ML Programs, an op of their main blocks at a time.

    Args:
        interpreter: of the model, on the numpy or torch backend.
        inputs: as for `Interpreter.predict`.
        state: likewise.
        take: given an op, and what runs it and returns its results, with other values in the place
            of some where it is given {value: array}; it returns those that the next ops read.

    Raises:
        ExecutionError: an op failed.
        InputError: the inputs do not fit.
    """
    backend, given = interpreter.backend, dict(inputs)
    assert backend is not None
    check_names(inputs, interpreter.inputs, interpreter.states)
    for part in interpreter.parts:
        features, given = part.description.inputs, dict(part.prepared(given))
        arrays = {one.name: read_input(one, given.get(one.name)) for one in features}
        run = Run(Values(part.constants), part.plan.block.outputs, backend.xp)

        def results_of(
            step: OpPlan, others: Mapping[Source, object] = _NONE, *, run: Run = run
        ) -> Results:
            own = {value: run.values[value] for value in others}
            run.values.update(others)
            try:
                return run.call(step, run.arguments(step))
            finally:
                run.values.update(own)

        with backend.session(False):
            run.values.update(bind(part, arrays, state, backend))
            for step in part.plan.block.steps:
                run.finish(step, take(step, partial(results_of, step)))
            results = {value.name: run.values[value] for value in part.plan.block.outputs}
        for feature in part.description.outputs if part is not interpreter.parts[-1] else ():
            given[feature.name] = write_output(feature, backend.to_numpy(results[feature.name]))


def declared(step: OpPlan, results: Results, backend: Backend | None) -> Results:
    """Returns what an op has made, each as its declared type can hold it."""
    assert backend is not None
    return tuple(
        backend.from_numpy(restored(backend.to_numpy(one), "fp16").astype(np.float32))
        if is_fp16(output) and hasattr(one, "shape")
        else one
        for output, one in zip(step.op.outputs, results, strict=True)
    )


def is_fp16(value: Value) -> bool:
    """Returns whether a value is declared as a tensor of fp16."""
    return isinstance(value.type, TensorType) and value.type.dtype == "fp16"
