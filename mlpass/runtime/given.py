"""What the steps of samples give to a program, and what an error calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from mlpass.errors import CalibrationError, InputError
from mlpass.runtime.calls import function_of
from mlpass.runtime.doubts import LOOKED_AT, Runner, warn_of
from mlpass.runtime.failures import of_sample, sample_label
from mlpass.runtime.features import check_names
from mlpass.runtime.interpreter import Interpreter, Part
from mlpass.runtime.samples import Inputs, Sample
from mlpass.runtime.steps import Keeping, numbered_steps

R = TypeVar("R", bound=Runner, covariant=True)


class Several(Keeping, Protocol[R]):
    """Something that runs samples which may name functions: an `Interpreter`, or a module."""

    def runner(self, step: Inputs) -> R:
        """Returns what runs the function that a step is for."""


def given_steps(samples: Sequence[Sample], interpreter: Interpreter) -> list[Sequence[Inputs]]:
    """Returns the steps of each sample, all of which have the names of the model's inputs.

    Raises:
        CalibrationError: they have other names, or not as many steps in all arrays.
    """
    given = []
    for number, sample in enumerate(samples):
        try:
            given.append(steps_for(sample, interpreter, number))
        except InputError as error:
            raise CalibrationError(f"sample_data: {error}") from None
    _check_given(given, interpreter)
    return given


def steps_for(sample: Sample, interpreter: Several[Runner], number: int) -> Sequence[Inputs]:
    """Returns the steps of a sample, as `numbered_steps` for the function that it names."""
    with of_sample(number):
        runner = interpreter.runner(sample) if isinstance(sample, Mapping) else interpreter
    return numbered_steps(sample, runner, number)


def _check_given(given: Sequence[Sequence[Inputs]], interpreter: Interpreter) -> None:
    """Raises CalibrationError where a step has other names than the model's inputs."""
    for number, sample in enumerate(given):
        for place, inputs in enumerate(sample):
            label = step_label(number, place, sample)
            if not isinstance(inputs, Mapping):
                raise CalibrationError(
                    f"{label} must map input names to arrays. Got {type(inputs).__name__}."
                )
            try:
                runner = interpreter.runner(inputs)
                check_names(inputs, runner.inputs, runner.states)
            except InputError as error:
                raise CalibrationError(f"{label}: {error}") from None


def by_runner(
    given: Sequence[Sequence[Inputs]], interpreter: Several[R]
) -> Iterable[tuple[R, Sequence[Sequence[Inputs]]]]:
    """Returns what runs the steps of samples, each with those of its function, sample by sample."""
    found: dict[R, list[list[Inputs]]] = {}
    for sample in given:
        own: dict[R, list[Inputs]] = {}
        for step in sample:
            own.setdefault(interpreter.runner(step), []).append(step)
        for runner, steps in own.items():
            found.setdefault(runner, []).append(steps)
    return found.items()


def warn_of_each(interpreter: Several[Runner], samples: Sequence[Sample]) -> None:
    """Warns, as `warn_of`, of samples that can hardly be meant for the function that they name.

    Raises:
        InputError: a sample has not as many steps in all arrays.
    """
    some = enumerate(islice(samples, LOOKED_AT))
    given = [steps_for(sample, interpreter, number) for number, sample in some]
    for runner, steps in by_runner(given, interpreter):
        warn_of(runner, steps)


def prepared(part: Part, given: list[Sequence[Inputs]]) -> list[Sequence[Inputs]]:
    """Returns what each step is given, and what the parts for tables before a program make of it.

    Raises:
        CalibrationError: it does not fit them.
    """
    made: list[Sequence[Inputs]] = []
    for number, sample in enumerate(given if part.before else ()):
        steps = []
        for place, inputs in enumerate(sample):
            try:
                steps.append(part.prepared(inputs))
            except InputError as error:
                raise CalibrationError(f"{step_label(number, place, sample)}: {error}") from None
        made.append(steps)
    return made or given


def step_label(number: int, place: int, sample: Sequence[Inputs]) -> str:
    """Returns what to call a step of a sample in a message."""
    function = function_of(sample[place])
    of = "" if function is None else f" (of those for {function!r})"
    return f"sample_data: {sample_label(number, place, len(sample))}{of}"
