"""What the steps of samples give to a program, and what an error calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpass.errors import CalibrationError, InputError
from mlpass.runtime.description import Feature
from mlpass.runtime.failures import sample_label
from mlpass.runtime.features import check_names
from mlpass.runtime.interpreter import Part
from mlpass.runtime.samples import Inputs, Sample
from mlpass.runtime.steps import Keeping, steps_of


def given_steps(samples: Sequence[Sample], runner: Keeping) -> list[Sequence[Inputs]]:
    """Returns the steps of each sample, all of which have the names of the model's inputs.

    Raises:
        CalibrationError: they have other names, or not as many steps in all arrays.
    """
    given = []
    for number, sample in enumerate(samples):
        try:
            given.append(steps_of(sample, runner))
        except InputError as error:
            raise CalibrationError(f"sample_data: {sample_label(number)}: {error}") from None
    _check_given(given, runner.inputs)
    return given


def _check_given(given: Sequence[Sequence[Inputs]], features: Sequence[Feature]) -> None:
    for number, sample in enumerate(given):
        for place, inputs in enumerate(sample):
            label = step_label(number, place, sample)
            if not isinstance(inputs, Mapping):
                raise CalibrationError(
                    f"{label} must map input names to arrays. Got {type(inputs).__name__}."
                )
            try:
                check_names(inputs, features)
            except InputError as error:
                raise CalibrationError(f"{label}: {error}") from None


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
    return f"sample_data: {sample_label(number, place, len(sample))}"
