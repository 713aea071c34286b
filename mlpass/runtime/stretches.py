"""How a replay divides its work: which steps run together, which samples, and who reads what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

from mlpass.program.ir import Block, Op, TensorType, Value
from mlpass.runtime.constants import Constants
from mlpass.runtime.function_plan import BlockPlan, FunctionPlan, OpPlan, reads
from mlpass.runtime.ops import Source

_TOGETHER = 8  # samples at most that a thread runs through a stretch: one large product for all
_SHARES = 8  # and at least so many jobs, where there are enough samples
_TAIL = 4  # towards the end of a stretch, a job takes that part of what is left
_STRETCH = 1 << 26  # bytes of constants at which a stretch ends


def jobs_of(samples: int) -> list[slice]:
    """Returns neighbouring slices of samples, smaller ones last: then all cores end together."""
    together = max(1, min(_TOGETHER, samples // _SHARES))
    jobs, start = [], 0
    while start < samples:
        count = min(together, max(1, (samples - start) // _TAIL))
        jobs.append(slice(start, start + count))
        start += count
    return jobs


def stretches(
    steps: Sequence[OpPlan], wanted: Sequence[Sequence[Op]], constants: Constants
) -> Iterator[tuple[int, int]]:
    """Yields bounds of neighbouring steps that run together.

    A wanted op begins some, and so does an op before which the constants have become many.

    Args:
        steps: of a function.
        wanted: the wanted ops of each.
        constants: of the same function.
    """
    start, nbytes = 0, 0
    for index, step in enumerate(steps):
        if index > start and (wanted[index] or nbytes > _STRETCH):
            yield start, index
            start, nbytes = index, 0
        nbytes += sum(_constant_nbytes(op, constants) for op in ops_of(step))
    yield start, len(steps)


def _constant_nbytes(op: Op, constants: Constants) -> int:
    """Returns the bytes in fp32 of the constants that an op reads."""
    return sum(
        4 * prod(length or 0 for length in source.type.shape)
        for sources in op.inputs.values()
        for source in sources
        if source in constants and isinstance(source.type, TensorType)
    )


def ops_of(step: OpPlan) -> Iterator[Op]:
    """Yields a step's op, and those of its nested blocks."""
    yield step.op
    for block in step.op.blocks:
        yield from block.walk()


def kernels_of(block: BlockPlan) -> Iterator[tuple[Op, Callable[..., Any]]]:
    """Yields every op of a block with its kernel, those of nested blocks included."""
    for step in block.steps:
        yield step.op, step.function
        for nested in step.blocks:
            yield from kernels_of(nested)


def made_in(block: Block) -> Iterator[Value]:
    """Yields every value that a block is given or makes, those of nested blocks included."""
    for nested in block.walk_blocks():
        yield from nested.inputs
    for op in block.walk():
        yield from op.outputs


def uses_of(plan: FunctionPlan) -> Mapping[Value, Sequence[int]]:
    """Returns at which steps each value is read; outputs after the last."""
    uses: dict[Value, list[int]] = {}
    for index, step in enumerate(plan.block.steps):
        for value in dict.fromkeys(reads(step.op)):
            uses.setdefault(value, []).append(index)
    for value in plan.block.outputs:
        uses.setdefault(value, []).append(len(plan.block.steps))
    return uses


def last_reads(plan: FunctionPlan, constants: Constants) -> Mapping[int, Iterable[Source]]:
    """Returns, by step, the constants that no step after it reads."""
    last: dict[Source, int] = {}
    for index, step in enumerate(plan.block.steps):
        for op in ops_of(step):
            for sources in op.inputs.values():
                last.update((source, index) for source in sources if source in constants)
    steps: dict[int, list[Source]] = {}
    for source, index in last.items():
        steps.setdefault(index, []).append(source)
    return steps
