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

from numpy.typing import NDArray

from mlpass.blas import one_blas_thread
from mlpass.errors import CalibrationError, InputError
from mlpass.halves import widened
from mlpass.parallel import map_items
from mlpass.program.ir import Op, Value
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.constants import Constants
from mlpass.runtime.execute import Run
from mlpass.runtime.features import check_names, read_input, write_output
from mlpass.runtime.interpreter import Interpreter, Part, bind
from mlpass.runtime.kernels.registry import row_parameter
from mlpass.runtime.kernels.states import Cell
from mlpass.runtime.plan import Step, reads
from mlpass.runtime.spill import SampleValues, Spill
from mlpass.runtime.state import State
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
Arguments = Mapping[str, Any]

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
    """Holds what running needs, and never while somebody else has the word."""
    with one_blas_thread(), backend.session(False):
        yield


def _last_wanted(parts: Sequence[Part], wanted: Callable[[Op], bool]) -> int:
    """Returns the number of the last part with a wanted op, -1 where there is none."""
    return max(
        (
            number
            for number, part in enumerate(parts)
            if any(wanted(op) for op in part.plan.function.block.walk())
        ),
        default=-1,
    )


class Stop:
    """Where all samples are at one moment; over as soon as the next stop is asked for.

    Attributes:
        ops: what runs next, in order, those of nested blocks included; at the last stop, all that
            is left of the program.
        wanted: those of them whose arguments can be asked for.
        samples: the number of each sample.
    """

    def __init__(
        self, replay: _Replay, step: Step, wanted: Sequence[Op], ops: Sequence[Op]
    ) -> None:
        """Is made by a replay."""
        self.ops = ops
        self.wanted = wanted
        self.samples = range(len(replay.runs))
        self._replay = replay
        self._step = step
        self._rehearsed: tuple[int, Mapping[Op, Sequence[Arguments]]] = (-1, {})

    @property
    def constants(self) -> Constants:
        """What the program states, replaced weights included."""
        return self._replay.constants

    def kernel(self, op: Op) -> Callable[..., Any]:
        """Returns the kernel of an op that runs next."""
        return self._replay.kernels[op]

    def arguments(self, op: Op) -> Mapping[int, Sequence[Arguments]]:
        """Returns what the kernel of a wanted op is given, by the number of the sample.

        That is once for each time that the op runs: several times in a loop, and never in a branch
        that is not taken. It is read when it is asked for; control flow is then rehearsed, so that
        it is best to ask for all ops of one sample before the next.

        Raises:
            CalibrationError: the stop is over, or the op is not wanted here.
        """
        self._check()
        if op not in self.wanted:
            raise CalibrationError(f"replay: {op.name!r} is not among the wanted ops of this stop")
        return _ByNumber(self.samples, lambda number: self._shown(op, number))

    def replace(self, value: Value, array: NDArray[Any]) -> None:
        """Lets a constant be `array` from now on, for all samples.

        Raises:
            CalibrationError: the stop is over, or the value is not a constant of this program.
        """
        self._check()
        if value not in self.constants:
            raise CalibrationError(f"replay: {value.name!r} is not a constant of this program")
        self.constants.replace(value, self._replay.backend.from_numpy(widened(array)))

    def _check(self) -> None:
        if self._replay.here is not self:
            raise CalibrationError(
                "replay: this stop is over; ask for arguments, and replace weights, before the "
                "next stop, while the iterator lives"
            )

    def _shown(self, op: Op, number: int) -> Sequence[Arguments]:
        self._check()
        if not self._step.blocks:
            return (self._replay.runs[number].reading(self._step),)
        if self._rehearsed[0] != number:
            self._rehearsed = (-1, {})  # or two samples' values would be held at once
            self._rehearsed = number, self._replay.rehearse(self._step, number, self.wanted)
        return self._rehearsed[1][op]


class _ByNumber(Mapping[int, Sequence[Arguments]]):
    """A mapping from numbers to what a function returns for them."""

    def __init__(self, numbers: range, show: Callable[[int], Sequence[Arguments]]) -> None:
        self._numbers = numbers
        self._show = show

    def __getitem__(self, number: int) -> Sequence[Arguments]:
        if number not in self._numbers:
            raise KeyError(number)
        return self._show(number)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


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
        self.backend = backend
        self.constants = part.constants
        self.kernels = dict(kernels_of(part.plan.block))
        self.runs: list[Run] = []
        self.here: Stop | None = None
        self._part = part
        self._spill = Spill(memory_budget, backend, uses_of(part.plan))

    def close(self) -> None:
        """Lets go of all activations."""
        self.here = None
        self.runs.clear()
        self._spill.__exit__()

    def begin(self, samples: Sequence[Mapping[str, Any]], states: Sequence[State | None]) -> None:
        """Reads the inputs of all samples.

        Raises:
            CalibrationError: they do not fit.
        """
        with _working(self.backend):
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
        values = SampleValues(self.constants, self._spill, number)
        values.update(bind(plan, arrays, state, self.backend))
        self.runs.append(Run(values, plan.block.outputs, self.backend.xp))
        self._spill.note([values], plan.block.inputs, -1)

    def stops(self, wanted: Callable[[Op], bool], *, to_the_end: bool) -> Iterator[Stop]:
        """Yields every stop, and runs what is between them.

        Args:
            wanted: whether to stop at an op.
            to_the_end: whether to run what comes after the last of them, too.
        """
        steps, forgotten = self._part.plan.block.steps, last_reads(self._part.plan, self.constants)
        asked = [tuple(op for op in ops_of(step) if wanted(op)) for step in steps]
        for start, end in stretches(steps, asked, self.constants):
            final = not to_the_end and not any(asked[end:])
            told = steps[start:] if final else steps[start:end]
            ops = [op for step in told for op in ops_of(step)]
            self.here = Stop(self, steps[start], asked[start], ops)
            yield self.here
            self.here = None
            if final:
                break
            with _working(self.backend):
                self._run(steps[start:end], end - 1)
            for index in range(start, end):
                for source in forgotten.get(index, ()):
                    self.constants.forget(source)

    def rehearse(
        self, step: Step, number: int, wanted: Sequence[Op]
    ) -> Mapping[Op, Sequence[Arguments]]:
        """Returns what wanted ops are given within control flow, each time that they run.

        It runs on copies of what it could change.
        """
        run = self.runs[number]
        values = SampleValues(self.constants, self._spill, -1)
        own = {value for block in step.op.blocks for value in made_in(block)}
        recording = _Recording(wanted)
        with _working(self.backend):
            for value in set(reads(step.op)) - own:
                found = run.values[value]
                values[value] = Cell(found.value) if isinstance(found, Cell) else found
            outputs = self._part.plan.block.outputs
            Run(values, outputs, self.backend.xp, (recording,)).steps([step])
        return recording.found

    def _run(self, steps: Sequence[Step], last: int) -> None:
        """Runs steps for all samples; some of them on each core, where that is up to us.

        Args:
            steps: neighbours.
            last: the index of the last of them.
        """
        made = [value for step in steps for value in step.op.outputs]

        def run_some(some: slice) -> None:
            runs = self.runs[some]
            with self.backend.session(False):
                for parameter, group in groupby(steps, lambda step: row_parameter(step.function)):
                    if parameter is not None:
                        self._run_together(list(group), runs, parameter)
                        continue
                    stretch = list(group)
                    for run in runs:
                        run.steps(stretch)
            values: Any = [run.values for run in runs]
            self._spill.note(values, made, last)

        jobs = jobs_of(len(self.runs))
        if self.backend.name == "numpy":
            map_items(run_some, jobs)
        else:
            for some in jobs:
                run_some(some)

    def _run_together(self, steps: Sequence[Step], runs: Sequence[Run], parameter: str) -> None:
        """Runs ops that see rows alone on those of several samples: one large product for each.

        Args:
            steps: neighbours.
            runs: of some samples.
            parameter: whose rows the ops see.
        """
        xp = self.backend.xp
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
        with _working(self.backend):
            return [self._outputs(run) for run in self.runs]

    def _outputs(self, run: Run) -> Mapping[str, Any]:
        outputs = {value.name: value for value in self._part.plan.block.outputs}
        return {
            feature.name: write_output(
                feature, self.backend.to_numpy(run.values[outputs[feature.name]])
            )
            for feature in self._part.description.outputs
        }
