"""Replay: all calibration samples through a program at once, a stop at a time.

At a stop all samples have come to the same op. Whoever iterates may look at what the op is given,
and put other weights in the place of those that it and the next ones read; then the stretch up to
the next stop runs, for a few samples at a time, whose values so stay in the cores' caches. One pass
over the program does for any number of layers, each of which meets the activations that those
before it really produce.

The steps of a sequence share a state, which each must find as the one before has left it. So what
is between the first op that reads or writes a state and the last runs step by step, sequence by
sequence. What the ops in there meet is seen as within control flow: by a rehearsal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array
from mlpass.errors import CalibrationError, InputError
from mlpass.halves import widened
from mlpass.parallel import Item, Result, map_items, thread_count
from mlpass.program.ir import Op, Value
from mlpass.runtime.abreast import run_abreast
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.calls import called, function_of
from mlpass.runtime.doubts import warn_of
from mlpass.runtime.execute import Run
from mlpass.runtime.failures import of_sample
from mlpass.runtime.features import read_input, write_output
from mlpass.runtime.function_plan import OpPlan
from mlpass.runtime.given import by_runner, given_steps, prepared, step_label
from mlpass.runtime.interpreter import Interpreter, Part, bind
from mlpass.runtime.kernels.registry import Arguments
from mlpass.runtime.rehearsal import rehearsed
from mlpass.runtime.samples import Inputs, Sample
from mlpass.runtime.spill import SampleValues, Spill
from mlpass.runtime.state import State
from mlpass.runtime.stop import Own, Show, Stop
from mlpass.runtime.stretches import (
    Among,
    at_once,
    kernels_of,
    last_reads,
    linked,
    ops_of,
    rehearsals,
    stretches,
    uses_of,
)

MEMORY_BUDGET = 2 << 30

# What parts make for those after them, as these are given it.
Handed = dict[Value, NDArray[np.generic]]


def stops(
    interpreter: Interpreter,
    samples: Sequence[Sample],
    wanted: Callable[[Op], bool],
    *,
    memory_budget: int = MEMORY_BUDGET,
    among: Among | None = None,
) -> Generator[Stop, None, None]:
    """Yields one stop after another, as far as the last op that is wanted; in between it runs.

    Every op runs once a sample, once a step of a sequence. Control flow that holds a wanted op runs
    once more before, where the arguments of that are asked for; and so does what the steps of a
    sequence are linked through, for each eighth of the wanted ops in it, which so meet what those
    of the eighths before make with their new weights. Several replays may take turns, each with an
    interpreter of its own. Nothing but activations is held from one stop to the next; closing the
    generator lets them go, with the files that they may be in.

    Args:
        interpreter: on the numpy or torch backend.
        samples: each {input name: array}, as for `Interpreter.predict`, or a sequence of such; each
            starts with a new state.
        wanted: whether to stop at an op. There are other stops too, where much lies between.
        memory_budget: bytes of activations that may stay in memory; the rest goes to temporary
            files.
        among: where the samples are among those of a run that is divided; None where they are all.

    Raises:
        CalibrationError: a sample does not fit the inputs, or the backend is Core ML.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    if interpreter.backend is None:
        raise CalibrationError("replay: Core ML shows no activations; use numpy or torch")
    return _stops(interpreter, interpreter.backend, samples, wanted, memory_budget, among)


def _stops(
    interpreter: Interpreter,
    backend: Backend,
    samples: Sequence[Sample],
    wanted: Callable[[Op], bool],
    memory_budget: int,
    among: Among | None,
) -> Generator[Stop, None, None]:
    last = _last_wanted(interpreter.parts, wanted)
    if last < 0:
        return
    given = given_steps(samples, interpreter)
    for runner, some in by_runner(given, interpreter):
        warn_of(runner, some)
    if among is None:
        among = Among(0, [len(steps) for steps in given])
    states = [interpreter.new_state(sample) for sample in given]
    handed: list[list[Handed]] = [[{} for _ in steps] for steps in given]
    for number, part in enumerate(interpreter.parts[: last + 1]):
        replay = _Replay(part, backend, memory_budget, among)
        try:
            given = prepared(part, given)
            members = [[interpreter.runner(step).parts[number] for step in one] for one in given]
            replay.begin(given, members, states, handed)
            yield from replay.stops(wanted, to_the_end=number < last)
            given = replay.outputs(given) if number < last else []
        finally:
            replay.close()


@contextmanager
def _working(backend: Backend) -> Iterator[None]:
    """Holds what running needs, but not while the caller has control."""
    with backend.held(), backend.session(False):
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


class _Replay:
    """All samples on their way through one part."""

    def __init__(self, part: Part, backend: Backend, memory_budget: int, among: Among) -> None:
        self._part = part
        self._among = among
        self._backend = backend
        self._own = Own(part.constants, backend, dict(kernels_of(part.plan.block)))
        self._samples: list[Sequence[Run]] = []  # a run for each step of a sequence
        self._places: dict[Run, tuple[int, int, int]] = {}  # sample, step, how many it has
        self._members: dict[Run, Part] = {}  # of several functions, the one that it is of
        self._handed: dict[Run, Handed] = {}
        self._steps: dict[Part, Collection[OpPlan]] = {}
        self._spill = Spill(memory_budget, backend, uses_of(part.plan))

    def close(self) -> None:
        """Lets go of all activations."""
        self._samples.clear()
        self._places.clear()
        self._members.clear()
        self._handed.clear()
        self._spill.__exit__()

    @property
    def _runs(self) -> list[Run]:
        return [run for runs in self._samples for run in runs]

    def _runs_of(self, number: int) -> Sequence[Run]:
        return self._samples[number - self._among.first]

    def _naming(self, run: Run) -> AbstractContextManager[None]:
        """Returns what has an error name the sample of a run, and its step."""
        return of_sample(*self._places[run])

    def begin(
        self,
        samples: Sequence[Sequence[Inputs]],
        members: Sequence[Sequence[Part]],
        states: Sequence[State | None],
        handed: Sequence[Sequence[Handed]],
    ) -> None:
        """Reads the inputs of all samples.

        Args:
            samples: the steps of each.
            members: for each of them this part, or of several functions the one that it is for.
            states: of each sample.
            handed: for each step what the parts before this one make, to which it adds its own.
        """
        count = 0
        with _working(self._backend):
            for number, (sample, parts, state) in enumerate(
                zip(samples, members, states, strict=True), self._among.first
            ):
                runs = []
                for place, (inputs, part) in enumerate(zip(sample, parts, strict=True)):
                    values = SampleValues(self._part.constants, self._spill, count)
                    label = step_label(number, place, sample)
                    runs.append(self._begin(values, part, inputs, state, label))
                    self._places[runs[-1]] = number, place, len(sample)
                    self._handed[runs[-1]] = handed[number - self._among.first][place]
                    count += 1
                self._samples.append(runs)

    def _begin(
        self, values: SampleValues, part: Part, inputs: Inputs, state: State | None, label: str
    ) -> Run:
        try:
            arrays = {
                feature.name: read_input(feature, inputs.get(feature.name))
                for feature in part.description.inputs
            }
        except InputError as error:
            raise CalibrationError(f"{label}: {error}") from None
        values.update(bind(part, arrays, state, self._backend))
        self._spill.note([values], part.plan.block.inputs, -1)
        run = Run(values, part.plan.block.outputs, self._backend.xp)
        self._members[run] = part
        if part is not self._part:
            self._steps.setdefault(part, frozenset(part.plan.block.steps))
        return run

    def _own_of(self, run: Run, steps: Sequence[OpPlan]) -> Sequence[OpPlan]:
        """Returns those of some steps that a run takes: of several functions, its own."""
        own = self._steps.get(self._members[run])
        return steps if own is None else [step for step in steps if step in own]

    def stops(self, wanted: Callable[[Op], bool], *, to_the_end: bool) -> Iterator[Stop]:
        """Yields every stop, and runs what is between them."""
        plan, constants = self._part.plan, self._part.constants
        steps, forgotten = plan.block.steps, last_reads(plan, constants)
        asked = [[op for op in ops_of(step) if wanted(op)] for step in steps]
        glued = at_once(self._part.groups, asked)
        whole = linked(plan) if any(len(runs) > 1 for runs in self._samples) else ()
        for start, end in stretches(steps, asked, constants, whole, glued):
            final = not to_the_end and not any(asked[end:])
            stretch, together = steps[start:end], (start, end) in whole
            marks = rehearsals(asked, (start, end)) if together else [start]
            for at, to in pairwise([*marks, len(steps) if final else end]):
                ops = [op for step in steps[at:to] for op in ops_of(step)]
                asking = [op for some in asked[at:to] for op in some]
                beside = next((index for index in range(at + 1, end) if index not in glued), end)
                showing = stretch if together else steps[at:beside]
                show = self._showing(showing, asking, together and len(showing) > 1)
                first = self._among.first
                numbers = range(first, first + len(self._samples))
                stop = Stop(ops, asking, numbers, show, self._values, self._own)
                try:
                    yield stop
                finally:
                    stop.end()
            if final:
                break
            with _working(self._backend):
                self._run(stretch, end - 1, step_by_step=together)
            for index in range(start, end):
                for source in forgotten.get(index, ()):
                    constants.forget(source)

    def _showing(self, steps: Sequence[OpPlan], wanted: Sequence[Op], linked: bool) -> Show:
        """Returns what shows the arguments of wanted ops, by the number of the sample."""
        count = 1 if len(steps) == 1 else thread_count()
        if not linked and not any(step.blocks for step in steps):
            at_hand = {step.op: step for step in steps}
            return lambda op, number: [
                run.reading(step)
                for run in self._runs_of(number)
                for step in self._own_of(run, [at_hand[op]])
            ]
        known: dict[int, Mapping[Op, Sequence[Arguments]]] = {}

        def rehearse(number: int) -> Mapping[Op, Sequence[Arguments]]:
            runs = [(run, self._own_of(run, steps)) for run in self._runs_of(number)]
            with self._backend.session(False):
                return rehearsed(self._part, runs, wanted, self._spill, self._naming)

        def show(op: Op, number: int) -> Sequence[Arguments]:
            if number not in known:
                known.clear()  # or the values of all samples would be held at once
                end = self._among.first + len(self._samples)
                some = range(number, min(number + count, end))
                with _working(self._backend):
                    known.update(zip(some, self._map(rehearse, some), strict=True))
            return known[number][op]

        return show

    def _values(self, value: Value, number: int) -> Sequence[Array]:
        """Returns what a value is of a sample, at each step of a sequence."""
        found = []
        try:
            for run in self._runs_of(number):
                if self._members[run].plan.names.get(value.name) is value:
                    found.append(run.values[value])
                elif (array := self._handed[run].get(value)) is not None:
                    found.append(self._backend.from_numpy(widened(array)))
        except KeyError:
            raise CalibrationError(
                f"replay: {value.name!r} is not there at this stop: it is not made yet, or nothing "
                "reads it any more"
            ) from None
        return found

    def _map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Returns `function(item)` for each item; on all cores, where that is up to us."""
        if self._backend.name == "numpy":
            return map_items(function, items)
        return [function(item) for item in items]

    def _run(self, steps: Sequence[OpPlan], last: int, *, step_by_step: bool) -> None:
        """Runs steps for all samples; some of them on each core, where that is up to us."""
        made = [value for step in steps for value in step.op.outputs]

        def run_some(runs: Sequence[Run]) -> None:
            with self._backend.session(False):
                if step_by_step:
                    for run in runs:
                        with self._naming(run):
                            run.steps(self._own_of(run, steps))
                else:
                    for _, alike in groupby(runs, self._members.__getitem__):
                        some = list(alike)
                        run_abreast(self._own_of(some[0], steps), some, self._naming)
            values: Any = [run.values for run in runs]
            self._spill.note(values, made, last)

        runs = self._runs
        jobs = (
            self._samples if step_by_step else [runs[some] for some in self._among.jobs(len(runs))]
        )
        self._map(run_some, jobs)

    def outputs(self, given: Sequence[Sequence[Inputs]]) -> list[Sequence[Inputs]]:
        """Returns what the parts after this one may read: what was given, and the outputs."""
        with _working(self._backend):
            return [
                [
                    called({**inputs, **self._outputs(run)}, function_of(inputs))
                    for inputs, run in zip(sample, runs, strict=True)
                ]
                for sample, runs in zip(given, self._samples, strict=True)
            ]

    def _outputs(self, run: Run) -> Mapping[str, object]:
        part = self._members[run]
        outputs = {value.name: value for value in part.plan.block.outputs}
        with self._naming(run):
            made = {
                feature.name: write_output(
                    feature, self._backend.to_numpy(run.values[outputs[feature.name]])
                )
                for feature in part.description.outputs
            }
        self._handed[run].update(
            (outputs[name], array) for name, array in made.items() if isinstance(array, np.ndarray)
        )
        return made
