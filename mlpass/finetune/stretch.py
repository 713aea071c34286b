"""A region run on a batch: mapped over its samples as a whole, or op by op where it cannot be."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlpass.finetune.batching import PerSample
from mlpass.finetune.cutting import Region
from mlpass.finetune.entry import Stage
from mlpass.finetune.module import ProgramModule
from mlpass.program.ir import Argument, StateType, Value
from mlpass.runtime.execute import Run, Values
from mlpass.runtime.function_plan import OpPlan, reads
from mlpass.runtime.kernels.states import Cell

Made = list[dict[Value, Any]]  # by step


class Live(NamedTuple):
    """What a step of a sequence gives to a region.

    Attributes:
        function: that the step is for.
        values: the inputs other than states; a `PerSample` where they differ by sample.
    """

    function: str | None
    values: dict[Value, Any]


def run_stretch(module: ProgramModule, stage: Stage, region: Region, given: Sequence[Live]) -> Made:
    """Returns a region's outputs for each step of a sequence, which share its states.

    Args:
        module: whose region it is, its parameters lent to the stage.
        stage: that it is part of.
        region: to run.
        given: its inputs, by step.
    """
    return _run(module, stage, region, given, stage.plan.block.steps)


def differing(stage: Stage, region: Region, shared: Container[Argument]) -> list[Value]:
    """Returns the outputs of a region that differ by sample: all that follow from what does."""
    found = {value for value in region.inputs if value not in shared}
    for step in stage.plan.block.steps[region.start : region.end]:
        if not found.isdisjoint(reads(step.op)):
            found.update(step.op.outputs)
    return [value for value in region.outputs if value in found]


def run_mapped(
    module: ProgramModule,
    stage: Stage,
    region: Region,
    given: Sequence[Live],
    outputs: Sequence[Value],
) -> Made:
    """Returns what `run_stretch` does, mapped over the samples as a whole rather than op by op.

    Args:
        module: as for `run_stretch`, and so are `stage`, `region` and `given`.
        stage: that it is part of.
        region: to run.
        given: its inputs.
        outputs: those that differ by sample.

    Raises:
        ExecutionError: an op failed, or is one that cannot be mapped.
        RuntimeError, TypeError, ValueError: it cannot be mapped.
    """
    batches = [
        (step, value, one.samples)
        for step, live in enumerate(given)
        for value, one in live.values.items()
        if isinstance(one, PerSample)
    ]
    made: Made = []

    def run_one(*samples: Tensor) -> list[Tensor]:
        single = [live._replace(values=dict(live.values)) for live in given]
        for (step, value, _), sample in zip(batches, samples, strict=True):
            single[step].values[value] = sample
        made[:] = _run(module, stage, region, single, stage.single)
        return [values.pop(value) for values in made for value in outputs if value in values]

    own = [
        [value for value in outputs if value in stage.of(live.function).values] for live in given
    ]
    if not any(own):
        return _run(module, stage, region, given, stage.plan.block.steps)
    mapped = iter(torch.func.vmap(run_one)(*(samples for _, _, samples in batches)))
    for values, some in zip(made, own, strict=True):
        values.update((value, PerSample(next(mapped))) for value in some)
    return made


def _run(
    module: ProgramModule,
    stage: Stage,
    region: Region,
    given: Sequence[Live],
    steps: Sequence[OpPlan],
) -> Made:
    states = [value for value in region.inputs if isinstance(value.type, StateType)]
    shapes = {value.name: module.states[value.name] for value in states}
    cells = {name: Cell(torch.zeros(shape, device=module.device)) for name, shape in shapes.items()}
    made: Made = []
    for function, values in given:
        member = stage.of(function)
        outputs = [value for value in region.outputs if value in member.values]
        run = Run(Values(stage.part.constants), outputs, module.backend.xp)
        run.values.update(values.items())
        run.values.update((value, cells[value.name]) for value in states)
        run.steps([s for s in steps[region.start : region.end] if s.op in member.ops])
        made.append({value: run.values[value] for value in outputs})
    return made
