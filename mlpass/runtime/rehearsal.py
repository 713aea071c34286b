"""What ops are given that come within a stretch or in control flow: seen by running that ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpass.program.ir import Op
from mlpass.runtime.abreast import Naming
from mlpass.runtime.execute import Recording, Run
from mlpass.runtime.function_plan import OpPlan
from mlpass.runtime.interpreter import Part
from mlpass.runtime.kernels.registry import Arguments
from mlpass.runtime.kernels.states import Cell
from mlpass.runtime.spill import SampleValues, Spill
from mlpass.runtime.stretches import given_to


def rehearsed(
    part: Part,
    runs: Sequence[tuple[Run, Sequence[OpPlan]]],
    wanted: Sequence[Op],
    spill: Spill,
    naming: Naming,
) -> Mapping[Op, Sequence[Arguments]]:
    """Returns what wanted ops are given by a sample, each time that they run.

    It runs on copies of what it could change.

    Args:
        part: that is run.
        runs: of the sample, one for each step of a sequence, each with what it is to run ahead.
        wanted: ops in there.
        spill: where its values are.
        naming: names the sample of a run in its errors.
    """
    constants, outputs = part.constants, part.plan.block.outputs
    recording, cells = Recording(wanted), dict[Cell, Cell]()
    for run, steps in runs:
        values = SampleValues(constants, spill, -1)
        for value in given_to(steps):
            if value in constants:
                continue
            found = run.values[value]
            if isinstance(found, Cell):  # the steps of a sequence share it
                found = cells.setdefault(found, Cell(found.value))
            values[value] = found
        with naming(run):
            Run(values, outputs, run.xp, (recording,)).steps(steps)
    return recording.found
