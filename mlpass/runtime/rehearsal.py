"""What ops are given that come within a stretch or in control flow: seen by running that ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpass.arrays import Namespace
from mlpass.program.ir import Op, Value
from mlpass.runtime.abreast import Naming
from mlpass.runtime.execute import Run
from mlpass.runtime.function_plan import OpPlan, reads
from mlpass.runtime.interpreter import Part
from mlpass.runtime.kernels.registry import Arguments
from mlpass.runtime.kernels.states import Cell
from mlpass.runtime.spill import SampleValues, Spill
from mlpass.runtime.stretches import made_in


def rehearsed(
    part: Part,
    steps: Sequence[OpPlan],
    wanted: Sequence[Op],
    runs: Sequence[Run],
    spill: Spill,
    xp: Namespace,
    naming: Naming,
) -> Mapping[Op, Sequence[Arguments]]:
    """Returns what wanted ops are given by a sample, each time that they run.

    It runs on copies of what it could change.

    Args:
        part: whose steps they are.
        steps: to run ahead.
        wanted: ops in these.
        runs: of the sample, one for each step of a sequence.
        spill: where its values are.
        xp: the backend's namespace.
        naming: names the sample of a run in its errors.
    """
    constants, outputs = part.constants, part.plan.block.outputs
    read = dict.fromkeys(value for step in steps for value in reads(step.op))
    own = {value for step in steps for value in step.op.outputs}
    own |= {value for step in steps for block in step.op.blocks for value in made_in(block)}
    given = [value for value in read if value not in own and value not in constants]
    recording, cells = _Recording(wanted), dict[Value, Cell]()
    for run in runs:
        values = SampleValues(constants, spill, -1)
        for value in given:
            found = run.values[value]
            if isinstance(found, Cell):  # the steps of a sequence share it
                found = cells.setdefault(value, Cell(found.value))
            values[value] = found
        with naming(run):
            Run(values, outputs, xp, (recording,)).steps(steps)
    return recording.found


class _Recording:
    """A listener that keeps the arguments of wanted ops, each time that they run."""

    def __init__(self, wanted: Sequence[Op]) -> None:
        self.found: dict[Op, list[Arguments]] = {op: [] for op in wanted}

    def before(self, op: Op, inputs: Arguments) -> None:
        if op in self.found:
            self.found[op].append(inputs)

    def after(self, op: Op, outputs: tuple[object, ...]) -> None:
        """Has seen enough before."""
