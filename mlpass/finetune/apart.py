"""Whether samples of a program can run at once: not where each may go its own way."""

from __future__ import annotations

from mlpass.finetune.entry import Stage
from mlpass.finetune.module import ProgramModule
from mlpass.program.ir import Op, Value
from mlpass.runtime.function_plan import reads
from mlpass.runtime.stretches import ops_of

# By op, the input that says which way it goes, or how much it gives.
_DECIDES = {"non_zero": "x", "cond": "pred"}


def run_apart(module: ProgramModule) -> bool:
    """Returns whether a module's samples must run one at a time, as far as its ops tell.

    Branches that follow from a sample, or as many rows as are found in one, are not those of
    another. Whether a loop ends for all at once does not show.
    """
    return any(map(_is_apart, module.stages))


def _is_apart(stage: Stage) -> bool:
    found: set[object] = set(stage.plan.block.inputs)  # what depends on the sample
    for step in stage.plan.block.steps:
        if any(_decides(op, found, nested=op is not step.op) for op in ops_of(step)):
            return True
        if step.op.type != "shape" and not found.isdisjoint(reads(step.op)):
            found.update(step.op.outputs)
    return False


def _decides(op: Op, found: set[object], *, nested: bool) -> bool:
    """Returns whether an op may do another thing for each sample; of nested ones, if in doubt."""
    if op.type not in _DECIDES:
        return False
    given = op.inputs[_DECIDES[op.type]]
    return any(isinstance(each, Value) and (nested or each in found) for each in given)
