"""Which weights no other comes after: zeros of theirs are zeros of the model's outputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mlpass.program.ir import Op, Program, Value
from mlpass.program.reads import values_of

# What they give is not zero where one of their inputs is.
_JOINING = {"add", "sub", "maximum", "minimum", "select", "where"}


def last_readers(programs: Iterable[Program], readers: Collection[Op]) -> set[Op]:
    """Returns those of some ops whose outputs are the model's, but for what is done to each alone.

    None of them comes after, on the way to an output, and nothing is added to what they make that
    is not a constant, as where a layer is skipped.
    """
    found: set[Op] = set()
    for program in programs:
        for function in program.functions.values():
            ops = [*function.block.walk()]
            constants = {value for op in ops if op.type == "const" for value in op.outputs}
            followed: set[Value] = set()  # what more is made of, later on
            for op in reversed(ops):
                after = not followed.isdisjoint(op.outputs)
                follows = after or op in readers
                if follows and not after:
                    found.add(op)
                if not follows and op.type not in _JOINING:
                    continue
                given = {*values_of(op)}
                if follows or len(given - constants) > 1:
                    followed |= given
    return found
