"""Weights whose output channels are the model's outputs: pruned whole, an output is gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from mlpass.plan.steps import Step
from mlpass.program.ir import Op, Program, Value
from mlpass.weights.sites import Site


def zeroed_outputs(
    programs: Iterable[Program], steps: Sequence[Step], zeroed: Collection[Site]
) -> tuple[str, ...]:
    """Returns a note where whole outputs of a model were zeroed; or none.

    Args:
        programs: of the model.
        steps: what was to become of each weight.
        zeroed: those that got zeros.
    """
    pruned = [
        step for step in steps if step.mode and step.mode.whole_outputs and step.site in zeroed
    ]
    if not pruned:
        return ()
    last = last_readers(programs, {use.op for step in steps for use in step.site.uses})
    names = [step.site.name for step in pruned if last & {use.op for use in step.site.uses}]
    if not names:
        return ()
    text = (
        f"whole outputs of the model are zero now: no weight comes after {', '.join(names)}; leave "
        f'such out of a config: op_name_configs={{"{names[0]}": None}}'
    )
    return (text,)


def last_readers(programs: Iterable[Program], readers: set[Op]) -> set[Op]:
    """Returns those of some ops that none of them comes after, on the way to an output."""
    found: set[Op] = set()
    for program in programs:
        for function in program.functions.values():
            followed: set[Value] = set()  # what one of them is made of, later on
            for op in reversed([*function.block.walk()]):
                after = any(value in followed for value in op.outputs)
                if op in readers and not after:
                    found.add(op)
                if op in readers or after:
                    given = (value for values in op.inputs.values() for value in values)
                    followed.update(value for value in given if isinstance(value, Value))
    return found
