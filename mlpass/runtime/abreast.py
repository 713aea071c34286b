"""Neighbouring steps run for several samples, one step after another for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import groupby

from mlpass.runtime.execute import Run
from mlpass.runtime.function_plan import OpPlan
from mlpass.runtime.joined import Joined, join
from mlpass.runtime.kernels.registry import row_parameter

# Has an error name the sample of a run.
Naming = Callable[[Run], AbstractContextManager[None]]


def run_abreast(steps: Sequence[OpPlan], runs: Sequence[Run], naming: Naming) -> None:
    """Runs steps for some runs of one function, one step after another for all of them.

    Raises:
        ExecutionError: an op failed.
    """
    for parameter, group in groupby(steps, lambda step: row_parameter(step.function)):
        if parameter is not None:
            _run_together(list(group), runs, parameter, naming)
            continue
        stretch = list(group)
        for run in runs:
            with naming(run):
                run.steps(stretch)


def _run_together(
    steps: Sequence[OpPlan], runs: Sequence[Run], parameter: str, naming: Naming
) -> None:
    """Runs ops that work row by row on the rows of several samples: a large product for each."""
    xp = runs[0].xp
    joined: Joined | None = None
    for step in steps:
        source = step.op.inputs[parameter]
        try:
            if joined is None or joined.source != source:
                joined = join(xp, source, [run.arguments(step)[parameter] for run in runs])
            arguments = {**runs[0].arguments(step), parameter: joined.rows}
            results = joined.split(xp, runs[0].call(step, arguments)[0])
        except Exception:  # each by itself says of which sample that is
            joined = None
            for run in runs:
                with naming(run):
                    run.steps([step])
            continue
        for run, result in zip(runs, results, strict=True):
            run.finish(step, (result,))
