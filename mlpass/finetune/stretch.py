"""A region run on a batch: mapped over its samples as a whole, or op by op where it cannot be."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

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


def run_stretch(
    module: ProgramModule, stage: Stage, region: Region, given: Sequence[Mapping[Value, object]]
) -> Made:
    """Returns a region's outputs for each step of a sequence, which share its states.

    Args:
        module: whose region it is, its parameters lent to the stage.
        stage: that it is part of.
        region: to run.
        given: its inputs other than states, by step; a `PerSample` where they differ by sample.
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
    given: Sequence[Mapping[Value, object]],
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
        for step, values in enumerate(given)
        for value, one in values.items()
        if isinstance(one, PerSample)
    ]
    made: Made = []

    def run_one(*samples: Tensor) -> list[Tensor]:
        single = [dict(values) for values in given]
        for (step, value, _), sample in zip(batches, samples, strict=True):
            single[step][value] = sample
        made[:] = _run(module, stage, region, single, stage.single)
        return [values.pop(value) for values in made for value in outputs]

    mapped = iter(torch.func.vmap(run_one)(*(samples for _, _, samples in batches)))
    for values in made:
        values.update((value, PerSample(next(mapped))) for value in outputs)
    return made


def _run(
    module: ProgramModule,
    stage: Stage,
    region: Region,
    given: Sequence[Mapping[Value, object]],
    steps: Sequence[OpPlan],
) -> Made:
    cells = {
        value: Cell(torch.zeros(module.states[value.name], device=module.device))
        for value in region.inputs
        if isinstance(value.type, StateType)
    }
    made: Made = []
    for values in given:
        run = Run(Values(stage.part.constants), region.outputs, module.backend.xp)
        run.values.update(values.items())
        run.values.update(cells.items())
        run.steps(steps[region.start : region.end])
        made.append({value: run.values[value] for value in region.outputs})
    return made
