"""How a replay divides its work: which steps run together, which samples, and who reads what."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import NamedTuple

from mlpass.program.ir import Op, StateType, TensorType, Value
from mlpass.program.reads import arguments_of
from mlpass.runtime.constants import Constants
from mlpass.runtime.function_plan import BlockPlan, FunctionPlan, OpPlan, made_in, reads
from mlpass.runtime.ops import Source

Bounds = tuple[int, int]  # of neighbours: the first, and the one after the last

_TOGETHER = 8  # samples at most that a thread runs through a stretch: one large product for all
_SHARES = 8  # and at least so many jobs, where there are enough samples
_TAIL = 4  # towards the end of a stretch, a job takes that part of what is left
_STRETCH = 1 << 26  # bytes of constants at which a stretch ends
_REHEARSALS = 8  # times at most that linked steps are rehearsed
_COHORT = 16  # samples at least
_COHORTS = 16  # at most, and so as many machines as can share a run
_EVEN = 8  # cohorts begin at multiples of it, with which samples are kept back


def cohorts_of(samples: int) -> list[range]:
    """Returns neighbouring samples that are summed by themselves before their sums are added.

    They follow from the number of samples alone: whoever replays a cohort gives the same sums.
    """
    count = max(1, min(_COHORTS, samples // _COHORT))
    edges = [samples * number // count // _EVEN * _EVEN for number in range(count)]
    return [range(*edge) for edge in pairwise([*edges, samples])]


class Among(NamedTuple):
    """Where the samples of a replay are among those of a run that is divided.

    Attributes:
        first: the number of the first of them.
        steps: how many steps each sample of the run has; the replay's begin and end a cohort.
    """

    first: int
    steps: Sequence[int]

    def jobs(self, count: int) -> list[slice]:
        """Returns which of the replay's `count` steps go together, as in the whole run."""
        edges = [0, *accumulate(self.steps)]
        start = edges[self.first]
        begins = {edges[cohort.start] for cohort in cohorts_of(len(self.steps))}
        cut = sorted(begins | {job.start for job in jobs_of(edges[-1])} | {edges[-1]})
        return [
            slice(begin - start, end - start)
            for begin, end in pairwise(cut)
            if start <= begin < start + count
        ]


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
    steps: Sequence[OpPlan],
    wanted: Sequence[Sequence[Op]],
    constants: Constants,
    whole: Sequence[Bounds] = (),
    glued: Collection[int] = (),
) -> Iterator[Bounds]:
    """Yields bounds of neighbouring steps that run together.

    A wanted op begins some, and so does an op before which the constants have become many.

    Args:
        steps: of a function.
        wanted: the wanted ops of each.
        constants: of the same function.
        whole: bounds that are kept as they are.
        glued: steps that run together with the one before, come what may.
    """
    inside = {*glued, *(index for start, end in whole for index in range(start + 1, end))}
    edges = {edge for bounds in whole for edge in bounds}
    start, nbytes = 0, 0
    for index, step in enumerate(steps):
        ends = index in edges or wanted[index] or nbytes > _STRETCH
        if index > start and index not in inside and ends:
            yield start, index
            start, nbytes = index, 0
        nbytes += sum(_constant_nbytes(op, constants) for op in ops_of(step))
    yield start, len(steps)


def linked(plan: FunctionPlan) -> Sequence[Bounds]:
    """Returns bounds of the steps through which the steps of a sequence hang together.

    That is from the first that reads or writes a state to the last: there, each step of a sequence
    needs what the one before it has left. Functions share states by name.
    """
    touched: dict[str, Bounds] = {}
    for index, step in enumerate(plan.block.steps):
        for value in reads(step.op):
            if isinstance(value.type, StateType):
                first, _ = touched.get(value.name, (index, index))
                touched[value.name] = first, index + 1
    merged: list[Bounds] = []
    for start, end in sorted(touched.values()):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def at_once(groups: Iterable[Bounds], wanted: Sequence[list[Op]]) -> set[int]:
    """Has the wanted ops of neighbours asked for at the first; returns the steps glued to that.

    Args:
        groups: bounds of the neighbours, none of which needs what another makes.
        wanted: the wanted ops of each step of the function, which are moved.
    """
    glued: set[int] = set()
    for start, end in groups:
        for index in range(start + 1, end):
            wanted[start] += wanted[index]
            wanted[index].clear()
            glued.add(index)
    return glued


def given_to(steps: Sequence[OpPlan]) -> list[Value]:
    """Returns what steps read that none of them makes, constants included."""
    own = {value for step in steps for value in step.op.outputs}
    own |= {value for step in steps for block in step.op.blocks for value in made_in(block)}
    read = dict.fromkeys(value for step in steps for value in reads(step.op))
    return [value for value in read if value not in own]


def rehearsals(wanted: Sequence[Sequence[Op]], bounds: Bounds) -> list[int]:
    """Returns where to stop within linked steps: at the first, then before some wanted ops each."""
    start, end = bounds
    found = [index for index in range(start, end) if wanted[index]]
    some = max(1, -(-len(found) // _REHEARSALS))
    return [start, *found[some::some]]


def _constant_nbytes(op: Op, constants: Constants) -> int:
    """Returns the bytes in fp32 of the constants that an op reads."""
    return sum(
        4 * prod(length or 0 for length in source.type.shape)
        for source in arguments_of(op)
        if source in constants and isinstance(source.type, TensorType)
    )


def ops_of(step: OpPlan) -> Iterator[Op]:
    """Yields a step's op, and those of its nested blocks."""
    yield step.op
    for block in step.op.blocks:
        yield from block.walk()


def kernels_of(block: BlockPlan) -> Iterator[tuple[Op, Callable[..., object]]]:
    """Yields every op of a block with its kernel, those of nested blocks included."""
    for step in block.steps:
        yield step.op, step.function
        for nested in step.blocks:
            yield from kernels_of(nested)


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
            last.update((source, index) for source in arguments_of(op) if source in constants)
    steps: dict[int, list[Source]] = {}
    for source, index in last.items():
        steps.setdefault(index, []).append(source)
    return steps
