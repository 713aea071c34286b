"""A run in which every value is rounded to the type that the program declares for it.

The Interpreter computes fp16 in fp32, as a processor may. Here what a type cannot hold is lost, so
that a type that is too narrow shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mlpass.program.ir import TensorType
from mlpass.runtime.execute import Run, Values
from mlpass.runtime.features import read_input, restored, write_output
from mlpass.runtime.function_plan import OpPlan
from mlpass.runtime.interpreter import Interpreter, bind
from mlpass.runtime.samples import Inputs
from mlpass.runtime.state import State

Results = tuple[Any, ...]


def walk(
    interpreter: Interpreter,
    inputs: Inputs,
    state: State | None,
    take: Callable[[OpPlan, Callable[[], Results]], Results],
) -> None:
    """Runs a model's ML Programs, an op of their main blocks at a time.

    Args:
        interpreter: of the model, on the numpy or torch backend.
        inputs: as for `Interpreter.predict`.
        state: likewise.
        take: given an op, and what runs it and returns its results, each as its declared type can
            hold it; it returns those that the next ops read.

    Raises:
        ExecutionError: an op failed.
        InputError: the inputs do not fit.
    """
    backend, given = interpreter.backend, dict(inputs)
    assert backend is not None

    def rounded(step: OpPlan, run: Run) -> Results:
        made = run.call(step, run.arguments(step))
        return tuple(
            backend.from_numpy(restored(backend.to_numpy(one), "fp16").astype(np.float32))
            if isinstance(output.type, TensorType)
            and output.type.dtype == "fp16"
            and hasattr(one, "shape")
            else one
            for output, one in zip(step.op.outputs, made, strict=True)
        )

    for part in interpreter.parts:
        features = part.description.inputs
        arrays = {one.name: read_input(one, given.get(one.name)) for one in features}
        run = Run(Values(part.constants), part.plan.block.outputs, backend.xp)
        with backend.session(False):
            run.values.update(bind(part.plan, arrays, state, backend))
            for step in part.plan.block.steps:
                run.finish(step, take(step, partial(rounded, step, run)))
            results = {value.name: run.values[value] for value in part.plan.block.outputs}
        for feature in part.description.outputs if part is not interpreter.parts[-1] else ():
            given[feature.name] = write_output(feature, backend.to_numpy(results[feature.name]))
