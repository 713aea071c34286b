"""Neighbouring ops run for several samples at once: what one makes, the next finds in a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import groupby

from mlpass.arrays import Namespace
from mlpass.runtime.execute import Run
from mlpass.runtime.function_plan import OpPlan
from mlpass.runtime.joined import Joined, join
from mlpass.runtime.kernels.registry import row_parameter

# Given a run, has an error name the sample that it is of.
Naming = Callable[[Run], AbstractContextManager[None]]


def run_abreast(
    xp: Namespace, steps: Sequence[OpPlan], runs: Sequence[Run], naming: Naming
) -> None:
    """Runs neighbouring steps for some runs: those that work row by row on all rows at once."""
    for parameter, group in groupby(steps, lambda step: row_parameter(step.function)):
        if parameter is not None:
            _run_together(xp, list(group), runs, parameter, naming)
            continue
        stretch = list(group)
        for run in runs:
            with naming(run):
                run.steps(stretch)


def _run_together(
    xp: Namespace, steps: Sequence[OpPlan], runs: Sequence[Run], parameter: str, naming: Naming
) -> None:
    """Runs ops that work row by row on the rows of several samples: a large product for each.

    Args:
        xp: the backend's namespace.
        steps: neighbours.
        runs: of some samples.
        parameter: whose rows the ops see.
        naming: names the sample of a run in its errors.
    """
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
