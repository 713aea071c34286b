"""Names for what a rewrite adds: free in the whole function, so that no two values share one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from mlpass.program.ir import Argument, Block, Op, Value


def names_in(blocks: Iterable[Block]) -> set[str]:
    """Returns every name in blocks and those nested in them: of ops, their results, and inputs."""
    found: set[str] = set()
    for block in blocks:
        for inner in block.walk_blocks():
            found.update(value.name for value in inner.inputs)
            for op in inner.ops:
                found.add(op.name)
                found.update(value.name for value in op.outputs)
    return found


def free_name(wanted: str, taken: set[str]) -> str:
    """Returns `wanted`, with a number where it is among `taken`; what it returns is added there."""
    free, number = wanted, 0
    while free in taken:
        number += 1
        free = f"{wanted}_{number}"
    taken.add(free)
    return free


def with_free_names(
    new_ops: Sequence[Op], taken: set[str], kept: Collection[Value] = ()
) -> list[Op]:
    """Returns the ops that take the place of one, under free names; the last keeps its own.

    Args:
        new_ops: in order of execution. The last stands for the old one, under the same names.
        taken: the names in the function that they are put into; those that are given are added.
        kept: values that keep their names, too, whichever op makes them.
    """
    *before, last = new_ops
    if not before:
        return [last]
    renamed: dict[Argument, Value] = {}
    named = []
    for op in before:
        new = [value.name for value in op.outputs if value not in kept]
        names = {name: free_name(name, taken) for name in dict.fromkeys([op.name, *new])}
        outputs = tuple(
            value if value in kept else Value(names[value.name], value.type) for value in op.outputs
        )
        named.append(replace(op, name=names[op.name], inputs=_of(op, renamed), outputs=outputs))
        renamed.update(zip(op.outputs, outputs, strict=True))
    return [*named, replace(last, inputs=_of(last, renamed))]


def _of(op: Op, renamed: Mapping[Argument, Value]) -> dict[str, tuple[Argument, ...]]:
    """Returns an op's inputs, with those that were renamed."""
    return {
        parameter: tuple(renamed.get(argument, argument) for argument in arguments)
        for parameter, arguments in op.inputs.items()
    }
