"""Replay: all calibration samples through a program at once, stretch by stretch.

A stretch begins with an op that a visitor wants to see. All samples are shown to him there, he may
put other weights in the place of those that the stretch reads, and only then it runs, for a few
samples at a time, whose values so stay in the cores' caches. One pass over the program does for any
number of layers, each of which meets the activations that those before it really produce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import prod
from typing import Any, Protocol

from mlpass.blas import one_blas_thread
from mlpass.errors import CalibrationError, InputError
from mlpass.parallel import map_items
from mlpass.program.ir import Block, Op, TensorType, Value
from mlpass.runtime.constants import Constants
from mlpass.runtime.execute import Run
from mlpass.runtime.features import check_names, read_input, write_output
from mlpass.runtime.interpreter import Interpreter, Part, bind
from mlpass.runtime.kernels.states import Cell
from mlpass.runtime.plan import BlockPlan, Plan, Step, reads
from mlpass.runtime.spill import SampleValues, Spill
from mlpass.runtime.state import State

Array = Any

MEMORY_BUDGET = 2 << 30
_TOGETHER = 8  # samples at most that a thread runs through a stretch: one large product for all
_SHARES = 8  # and at least so many jobs, where there are enough samples
_TAIL = 4  # towards the end of a stretch, a job takes that part of what is left
_STRETCH = 1 << 26  # bytes of constants at which a stretch ends

# Numbers of samples, and what an op's kernel is given for them: read when it is asked for.
Shown = Mapping[int, Mapping[str, Any]]


class Visitor(Protocol):
    """Someone who looks at ops before they run, and may replace the constants they read."""

    def wants(self, op: Op) -> bool:
        """Returns whether to be shown this op before anything after it is settled."""

    def see(self, op: Op, kernel: Callable[..., Any], shown: Shown) -> None:
        """Sees the arguments of an op, as its kernel is given them; in the order of the samples.

        Within a loop it sees every turn, of one sample after another.
        """

    def settle(self, ops: Sequence[Op], constants: Constants) -> None:
        """Is told what runs next, the wanted op and those up to the next one.

        What it replaces in `constants` is used from now on.
        """


def replay(
    interpreter: Interpreter,
    samples: Sequence[Mapping[str, Any]],
    visitor: Visitor,
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> None:
    """Runs all samples through a program, as far as the last op that the visitor wants to see.

    Every op runs once a sample. Control flow that holds a wanted op runs once more before, to show
    what happens in it.

    Args:
        interpreter: on the numpy or torch backend.
        samples: each {input name: array}, as for `Interpreter.predict`; each starts with a new
            state.
        visitor: sees the wanted ops.
        memory_budget: bytes of activations that may stay in memory; the rest goes to temporary
            files.

    Raises:
        CalibrationError: a sample does not fit the inputs, or the visitor refuses it.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    backend = interpreter.backend
    if backend is None:
        raise CalibrationError("replay: Core ML shows no activations; use numpy or torch")
    last = _last_wanted(interpreter.parts, visitor)
    given: list[Mapping[str, Any]] = list(samples)
    states = [State(interpreter.states, backend) if interpreter.states else None for _ in samples]
    for number, part in enumerate(interpreter.parts[: last + 1]):
        with (
            one_blas_thread(),
            backend.session(False),
            _Replay(part, interpreter, visitor, memory_budget) as running,
        ):
            for index, (sample, state) in enumerate(zip(given, states, strict=True)):
                running.begin(index, sample, state)
            given = running.steps(until_wanted=number == last)


def _last_wanted(parts: Sequence[Part], visitor: Visitor) -> int:
    """Returns the number of the last part with a wanted op, -1 where there is none."""
    return max(
        (
            number
            for number, part in enumerate(parts)
            if any(visitor.wants(op) for op in part.plan.function.block.walk())
        ),
        default=-1,
    )


class _Replay:
    """All samples on their way through one part."""

    def __init__(
        self, part: Part, interpreter: Interpreter, visitor: Visitor, memory_budget: int
    ) -> None:
        assert interpreter.backend is not None  # replay looked
        self._part = part
        self._backend = interpreter.backend
        self._visitor = visitor
        self._kernels = dict(_kernels(part.plan.block))
        self._spill = Spill(memory_budget, interpreter.backend, _uses(part.plan))
        self._runs: list[Run] = []

    def __enter__(self) -> _Replay:
        return self

    def __exit__(self, *_: object) -> None:
        self._spill.__exit__()

    def begin(self, number: int, sample: Mapping[str, Any], state: State | None) -> None:
        """Reads a sample's inputs.

        Raises:
            CalibrationError: they do not fit.
        """
        description, plan = self._part.description, self._part.plan
        if not isinstance(sample, Mapping):
            raise CalibrationError(
                f"sample_data: sample {number} must map input names to arrays. "
                f"Got {type(sample).__name__}."
            )
        try:
            check_names(sample, description.inputs)
            arrays = {
                feature.name: read_input(feature, sample.get(feature.name))
                for feature in description.inputs
            }
        except InputError as error:
            raise CalibrationError(f"sample_data: sample {number}: {error}") from None
        values = SampleValues(self._part.constants, self._spill, number)
        values.update(bind(plan, arrays, state, self._backend))
        self._runs.append(Run(values, plan.block.outputs, self._backend.xp))
        self._spill.note([values], plan.block.inputs, -1)

    def steps(self, until_wanted: bool) -> list[Mapping[str, Any]]:
        """Runs every step, and returns each sample's outputs by name.

        Args:
            until_wanted: whether to end with the last wanted op; there are then no outputs.
        """
        plan, constants = self._part.plan, self._part.constants
        steps, last_reads = plan.block.steps, _last_reads(plan, constants)
        wanted = [frozenset(op for op in _ops(step) if self._visitor.wants(op)) for step in steps]
        for start, stop in _stretches(steps, wanted, constants):
            if wanted[start]:
                self._show(steps[start], wanted[start])
            final = until_wanted and not any(wanted[stop:])
            told = steps[start:] if final else steps[start:stop]
            self._visitor.settle([op for step in told for op in _ops(step)], constants)
            if final:
                break
            self._run(steps[start:stop], stop - 1)
            for index in range(start, stop):
                for source in last_reads.get(index, ()):
                    constants.forget(source)
        return [] if until_wanted else [self._outputs(run) for run in self._runs]

    def _show(self, step: Step, wanted: frozenset[Op]) -> None:
        """Shows the visitor the wanted ops of a step, for every sample."""
        if step.blocks:
            for number, run in enumerate(self._runs):
                self._rehearse(step, run, wanted, number)
        else:
            shown = {number: run.reading(step) for number, run in enumerate(self._runs)}
            self._visitor.see(step.op, step.function, shown)

    def _rehearse(self, step: Step, run: Run, wanted: frozenset[Op], number: int) -> None:
        """Runs control flow on copies of what it could change, to show what happens in it."""
        values = SampleValues(self._part.constants, self._spill, -1)
        own = {value for op in step.op.blocks for value in _made_in(op)}
        for value in set(reads(step.op)) - own:
            found = run.values[value]
            values[value] = Cell(found.value) if isinstance(found, Cell) else found
        listener = _Showing(self._visitor, self._kernels, wanted, number)
        Run(values, self._part.plan.block.outputs, self._backend.xp, (listener,)).steps([step])

    def _run(self, steps: Sequence[Step], last: int) -> None:
        """Runs steps for all samples; some of them on each core, where that is up to us.

        Args:
            steps: neighbours.
            last: the index of the last of them.
        """
        made = [value for step in steps for value in step.op.outputs]

        def run_some(some: slice) -> None:
            runs = self._runs[some]
            with self._backend.session(False):
                for by_rows, group in groupby(steps, key=lambda step: step.op.type == "linear"):
                    stretch = list(group)
                    if not by_rows:
                        for run in runs:
                            run.steps(stretch)
                        continue
                    self._run_together(stretch, runs)
            values: Any = [run.values for run in runs]
            self._spill.note(values, made, last)

        jobs = _jobs(len(self._runs))
        if self._backend.name == "numpy":
            map_items(run_some, jobs)
        else:
            for some in jobs:
                run_some(some)

    def _run_together(self, steps: Sequence[Step], runs: Sequence[Run]) -> None:
        """Runs ops that see rows alone on those of several samples: one large product for each."""
        xp = self._backend.xp
        joined, before = None, None
        for step in steps:
            arguments = runs[0].arguments(step)
            source = step.op.inputs["x"]
            if source != before:
                inputs = [run.arguments(step)["x"] for run in runs]
                rows = [xp.reshape(x, (-1, x.shape[-1])) for x in inputs]
                joined, before = rows[0] if len(rows) == 1 else xp.concat(rows, axis=0), source
            (made,) = runs[0].call(step, {**arguments, "x": joined})
            stop = 0
            for run, x, own in zip(runs, inputs, rows, strict=True):
                start, stop = stop, stop + own.shape[0]
                run.finish(step, (xp.reshape(made[start:stop], (*x.shape[:-1], -1)),))

    def _outputs(self, run: Run) -> Mapping[str, Any]:
        """Returns a sample's outputs as the inputs of the next part."""
        outputs = {value.name: value for value in self._part.plan.block.outputs}
        return {
            feature.name: write_output(
                feature, self._backend.to_numpy(run.values[outputs[feature.name]])
            )
            for feature in self._part.description.outputs
        }


class _Showing:
    """A listener that shows wanted ops to a visitor."""

    def __init__(
        self,
        visitor: Visitor,
        kernels: Mapping[Op, Callable[..., Any]],
        wanted: frozenset[Op],
        sample: int,
    ) -> None:
        self._visitor = visitor
        self._kernels = kernels
        self._wanted = wanted
        self._sample = sample

    def before(self, op: Op, inputs: Mapping[str, Any]) -> None:
        if op in self._wanted:
            self._visitor.see(op, self._kernels[op], {self._sample: inputs})

    def after(self, op: Op, outputs: tuple[Any, ...]) -> None:
        """Has seen enough before."""


def _jobs(samples: int) -> list[slice]:
    """Returns neighbouring slices of samples, smaller ones last: then all cores end together."""
    together = max(1, min(_TOGETHER, samples // _SHARES))
    jobs, start = [], 0
    while start < samples:
        count = min(together, max(1, (samples - start) // _TAIL))
        jobs.append(slice(start, start + count))
        start += count
    return jobs


def _stretches(
    steps: Sequence[Step], wanted: Sequence[frozenset[Op]], constants: Constants
) -> Iterator[tuple[int, int]]:
    """Yields bounds of neighbouring steps that run together.

    A wanted op begins some, and so does an op before which the constants have become many.
    """
    start, nbytes = 0, 0
    for index, step in enumerate(steps):
        if index > start and (wanted[index] or nbytes > _STRETCH):
            yield start, index
            start, nbytes = index, 0
        nbytes += sum(_constant_nbytes(op, constants) for op in _ops(step))
    yield start, len(steps)


def _constant_nbytes(op: Op, constants: Constants) -> int:
    """Returns the bytes in fp32 of the constants that an op reads."""
    return sum(
        4 * prod(length or 0 for length in source.type.shape)
        for sources in op.inputs.values()
        for source in sources
        if source in constants and isinstance(source.type, TensorType)
    )


def _ops(step: Step) -> Iterable[Op]:
    """Yields a step's op, and those of its nested blocks."""
    yield step.op
    for block in step.op.blocks:
        yield from block.walk()


def _made_in(block: Block) -> Iterable[Value]:
    """Yields every value that a block is given or makes, those of nested blocks included."""
    for nested in block.walk_blocks():
        yield from nested.inputs
    for op in block.walk():
        yield from op.outputs


def _kernels(block: BlockPlan) -> Iterable[tuple[Op, Callable[..., Any]]]:
    for step in block.steps:
        yield step.op, step.function
        for nested in step.blocks:
            yield from _kernels(nested)


def _uses(plan: Plan) -> dict[Value, list[int]]:
    """Returns at which steps each value is read; outputs after the last."""
    uses: dict[Value, list[int]] = {}
    for index, step in enumerate(plan.block.steps):
        for value in dict.fromkeys(reads(step.op)):
            uses.setdefault(value, []).append(index)
    for value in plan.block.outputs:
        uses.setdefault(value, []).append(len(plan.block.steps))
    return uses


def _last_reads(plan: Plan, constants: Constants) -> dict[int, list[Any]]:
    """Returns, by step, the constants that no step after it reads."""
    last: dict[Any, int] = {}
    for index, step in enumerate(plan.block.steps):
        for op in _ops(step):
            for sources in op.inputs.values():
                last.update((source, index) for source in sources if source in constants)
    steps: dict[int, list[Any]] = {}
    for source, index in last.items():
        steps.setdefault(index, []).append(source)
    return steps
