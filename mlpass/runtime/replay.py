"""Replay: all calibration samples through a program at once, a stop at a time.

At a stop all samples have come to the same op. Whoever iterates may look at what the op is given,
and put other weights in the place of those that it and the next ones read; then the stretch up to
the next stop runs, for a few samples at a time, whose values so stay in the cores' caches. One pass
over the program does for any number of layers, each of which meets the activations that those
before it really produce.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from mlpass.blas import one_blas_thread
from mlpass.errors import CalibrationError, InputError
from mlpass.parallel import map_items
from mlpass.program.ir import Op, Value
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.execute import Run
from mlpass.runtime.features import check_names, read_input, write_output
from mlpass.runtime.function_plan import OpPlan, reads
from mlpass.runtime.interpreter import Interpreter, Part, bind
from mlpass.runtime.kernels.registry import row_parameter
from mlpass.runtime.kernels.states import Cell
from mlpass.runtime.spill import SampleValues, Spill
from mlpass.runtime.state import State
from mlpass.runtime.stop import Arguments, Own, Show, Stop
from mlpass.runtime.stretches import (
    jobs_of,
    kernels_of,
    last_reads,
    made_in,
    ops_of,
    stretches,
    uses_of,
)

Array = Any

MEMORY_BUDGET = 2 << 30


def stops(
    interpreter: Interpreter,
    samples: Sequence[Mapping[str, Any]],
    wanted: Callable[[Op], bool],
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> Generator[Stop, None, None]:
    """Yields one stop after another, as far as the last op that is wanted; in between it runs.

    Every op runs once a sample. Control flow that holds a wanted op runs once more before, where
    the arguments of that are asked for. Several replays may take turns, each with an interpreter
    of its own. Nothing but activations is held from one stop to the next; closing the generator
    lets them go, with the files that they may be in.

    Args:
        interpreter: on the numpy or torch backend.
        samples: each {input name: array}, as for `Interpreter.predict`; each starts with a new
            state.
        wanted: whether to stop at an op. There are other stops too, where much lies between.
        memory_budget: bytes of activations that may stay in memory; the rest goes to temporary
            files.

    Raises:
        CalibrationError: a sample does not fit the inputs, or the backend is Core ML.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    if interpreter.backend is None:
        raise CalibrationError("replay: Core ML shows no activations; use numpy or torch")
    return _stops(interpreter, interpreter.backend, samples, wanted, memory_budget)


def _stops(
    interpreter: Interpreter,
    backend: Backend,
    samples: Sequence[Mapping[str, Any]],
    wanted: Callable[[Op], bool],
    memory_budget: int,
) -> Generator[Stop, None, None]:
    last = _last_wanted(interpreter.parts, wanted)
    given: list[Mapping[str, Any]] = list(samples)
    states = [State(interpreter.states, backend) if interpreter.states else None for _ in samples]
    for number, part in enumerate(interpreter.parts[: last + 1]):
        replay = _Replay(part, backend, memory_budget)
        try:
            replay.begin(given, states)
            yield from replay.stops(wanted, to_the_end=number < last)
            given = replay.outputs() if number < last else []
        finally:
            replay.close()


@contextmanager
def _working(backend: Backend) -> Iterator[None]:
    """Holds what running needs, but not while the caller has control."""
    with one_blas_thread(), backend.session(False):
        yield


def _last_wanted(parts: Sequence[Part], wanted: Callable[[Op], bool]) -> int:
    """Returns the number of the last part with a wanted op, -1 without any."""
    return max(
        (
            number
            for number, part in enumerate(parts)
            if any(wanted(op) for op in part.plan.function.block.walk())
        ),
        default=-1,
    )


class _Recording:
    """A listener that keeps the arguments of wanted ops, each time that they run."""

    def __init__(self, wanted: Sequence[Op]) -> None:
        self.found: dict[Op, list[Arguments]] = {op: [] for op in wanted}

    def before(self, op: Op, inputs: Arguments) -> None:
        if op in self.found:
            self.found[op].append(inputs)

    def after(self, op: Op, outputs: tuple[Any, ...]) -> None:
        """Has seen enough before."""


class _Replay:
    """All samples on their way through one part."""

    def __init__(self, part: Part, backend: Backend, memory_budget: int) -> None:
        self._part = part
        self._backend = backend
        self._own = Own(part.constants, backend, dict(kernels_of(part.plan.block)))
        self._runs: list[Run] = []
        self._spill = Spill(memory_budget, backend, uses_of(part.plan))

    def close(self) -> None:
        """Lets go of all activations."""
        self._runs.clear()
        self._spill.__exit__()

    def begin(self, samples: Sequence[Mapping[str, Any]], states: Sequence[State | None]) -> None:
        """Reads the inputs of all samples.

        Raises:
            CalibrationError: they do not fit.
        """
        with _working(self._backend):
            for number, (sample, state) in enumerate(zip(samples, states, strict=True)):
                self._begin(number, sample, state)

    def _begin(self, number: int, sample: Mapping[str, Any], state: State | None) -> None:
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

    def stops(self, wanted: Callable[[Op], bool], *, to_the_end: bool) -> Iterator[Stop]:
        """Yields every stop, and runs what is between them.

        Args:
            wanted: whether to stop at an op.
            to_the_end: whether to run what comes after the last of them, too.
        """
        plan, constants = self._part.plan, self._part.constants
        steps, forgotten, samples = plan.block.steps, last_reads(plan, constants), len(self._runs)
        asked = [[op for op in ops_of(step) if wanted(op)] for step in steps]
        for start, end in stretches(steps, asked, constants):
            final = not to_the_end and not any(asked[end:])
            told = steps[start:] if final else steps[start:end]
            ops = [op for step in told for op in ops_of(step)]
            asking = asked[start]
            show = self._showing(steps[start], asking)
            stop = Stop(ops, asking, range(samples), show, self._value, self._own)
            try:
                yield stop
            finally:
                stop.end()
            if final:
                break
            with _working(self._backend):
                self._run(steps[start:end], end - 1)
            for index in range(start, end):
                for source in forgotten.get(index, ()):
                    constants.forget(source)

    def _showing(self, step: OpPlan, wanted: Sequence[Op]) -> Show:
        """Returns what shows the arguments of a step's wanted ops, by the number of the sample."""
        if not step.blocks:
            return lambda _, number: (self._runs[number].reading(step),)
        rehearsed: dict[int, Mapping[Op, Sequence[Arguments]]] = {}

        def show(op: Op, number: int) -> Sequence[Arguments]:
            if number not in rehearsed:
                rehearsed.clear()  # or the values of two samples would be held at once
                rehearsed[number] = self._rehearsed(step, number, wanted)
            return rehearsed[number][op]

        return show

    def _value(self, value: Value, number: int) -> Any:
        """Returns what a value is of a sample.

        Raises:
            CalibrationError: it is not there.
        """
        try:
            return self._runs[number].values[value]
        except KeyError:
            raise CalibrationError(
                f"replay: {value.name!r} is not there at this stop: it is not made yet, or nothing "
                "reads it any more"
            ) from None

    def _rehearsed(
        self, step: OpPlan, number: int, wanted: Sequence[Op]
    ) -> Mapping[Op, Sequence[Arguments]]:
        """Returns what wanted ops are given within control flow, each time that they run.

        It runs on copies of what it could change.
        """
        run = self._runs[number]
        values = SampleValues(self._part.constants, self._spill, -1)
        own = {value for block in step.op.blocks for value in made_in(block)}
        recording = _Recording(wanted)
        with _working(self._backend):
            for value in set(reads(step.op)) - own:
                found = run.values[value]
                values[value] = Cell(found.value) if isinstance(found, Cell) else found
            outputs = self._part.plan.block.outputs
            Run(values, outputs, self._backend.xp, (recording,)).steps([step])
        return recording.found

    def _run(self, steps: Sequence[OpPlan], last: int) -> None:
        """Runs steps for all samples; some of them on each core, where that is left to us.

        Args:
            steps: neighbours.
            last: the index of the last of them.
        """
        made = [value for step in steps for value in step.op.outputs]

        def run_some(some: slice) -> None:
            runs = self._runs[some]
            with self._backend.session(False):
                for parameter, group in groupby(steps, lambda step: row_parameter(step.function)):
                    if parameter is not None:
                        self._run_together(list(group), runs, parameter)
                        continue
                    stretch = list(group)
                    for run in runs:
                        run.steps(stretch)
            values: Any = [run.values for run in runs]
            self._spill.note(values, made, last)

        jobs = jobs_of(len(self._runs))
        if self._backend.name == "numpy":
            map_items(run_some, jobs)
        else:
            for some in jobs:
                run_some(some)

    def _run_together(self, steps: Sequence[OpPlan], runs: Sequence[Run], parameter: str) -> None:
        """Runs ops that work row by row on the rows of several samples: a large product for each.

        Args:
            steps: neighbours.
            runs: of some samples.
            parameter: whose rows the ops see.
        """
        xp = self._backend.xp
        joined, before = None, None
        for step in steps:
            arguments = runs[0].arguments(step)
            source = step.op.inputs[parameter]
            if source != before:
                inputs = [run.arguments(step)[parameter] for run in runs]
                rows = [xp.reshape(x, (-1, x.shape[-1])) for x in inputs]
                joined, before = rows[0] if len(rows) == 1 else xp.concat(rows, axis=0), source
            (made,) = runs[0].call(step, {**arguments, parameter: joined})
            stop = 0
            for run, x, own in zip(runs, inputs, rows, strict=True):
                start, stop = stop, stop + own.shape[0]
                run.finish(step, (xp.reshape(made[start:stop], (*x.shape[:-1], -1)),))

    def outputs(self) -> list[Mapping[str, Any]]:
        """Returns each sample's outputs as the inputs of the next part."""
        with _working(self._backend):
            return [self._outputs(run) for run in self._runs]

    def _outputs(self, run: Run) -> Mapping[str, Any]:
        outputs = {value.name: value for value in self._part.plan.block.outputs}
        return {
            feature.name: write_output(
                feature, self._backend.to_numpy(run.values[outputs[feature.name]])
            )
            for feature in self._part.description.outputs
        }
