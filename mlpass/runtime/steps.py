"""The steps of a sample: what the predictions that it stands for are given, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import numpy as np

from mlpass.errors import InputError
from mlpass.runtime.calls import called, function_of
from mlpass.runtime.description import Feature, Shapes
from mlpass.runtime.failures import of_sample
from mlpass.runtime.features import expected, is_picture
from mlpass.runtime.samples import Inputs, Sample


class Keeping(Protocol):
    """Something that runs samples, and may keep states: an `Interpreter`, or a module of torch."""

    @property
    def inputs(self) -> Sequence[Feature]:
        """What it takes."""

    @property
    def states(self) -> Mapping[str, object]:
        """What it keeps, by name."""


class _Given(NamedTuple):
    """What an array may be.

    Attributes:
        shape: of the array.
        single: whether it may be that of one prediction.
        steps: how many steps it has where it may be that of a sequence; None where it cannot be.
    """

    shape: tuple[int, ...]
    single: bool
    steps: int | None


def steps_of(sample: Sample, runner: Keeping) -> Sequence[Inputs]:
    """Returns what the predictions of a sample take: of most samples, there is but one.

    Where a model keeps a state, a sample whose arrays have one axis more than its inputs is a
    sequence: that axis, the first, counts steps.

    Args:
        sample: {input name: array}, or a sequence of such.
        runner: what it is for.

    Raises:
        InputError: some arrays lack that axis, or have another number of steps.
    """
    if isinstance(sample, Sequence):
        return sample
    asked = runner.states and isinstance(sample, Mapping)
    given = dict(_given(sample, runner.inputs)) if asked else {}
    if all(each.single for each in given.values()):
        return (sample,)
    if any(not each.single and each.steps is None for each in given.values()):
        return (sample,)  # which of its axes is wrong is said where it is read
    counts = {each.steps for each in given.values()}
    (count, *others) = counts
    if others or not count:
        shapes = ", ".join(f"{name} {each.shape}" for name, each in given.items())
        single = ", ".join(f"{each.name} {expected(each)}" for each in runner.inputs)
        raise InputError(
            "must be one step, or a sequence: then all arrays have one axis more, the first, which "
            f"counts as many steps in each. Got {shapes}; a step takes {single}."
        )
    steps = (
        {
            name: value[step] if name in given else value  # type: ignore[index]
            for name, value in sample.items()
        }
        for step in range(count)
    )
    return [called(step, function_of(sample)) for step in steps]


def numbered_steps(sample: Sample, runner: Keeping, number: int) -> Sequence[Inputs]:
    """Returns what `steps_of` does; an error names the sample by its number.

    Raises:
        InputError: some arrays lack the axis of steps, or have another number of them.
    """
    with of_sample(number):
        return steps_of(sample, runner)


def _given(sample: Inputs, features: Sequence[Feature]) -> Iterator[tuple[str, _Given]]:
    """Yields the names of a sample's arrays, and what each may be."""
    for feature in features:
        value = sample.get(feature.name)
        if value is None or feature.kind not in ("array", "image") or is_picture(value):
            continue
        with suppress(ValueError):  # of lists that are not an array
            shape = tuple(np.shape(value))  # type: ignore[call-overload]
            rank = 4 if feature.kind == "image" else len(feature.shape)
            scalar = feature.shapes.ranges == ((1, 1),)  # taken with its axis and without
            single = shape in ((), (1,)) if scalar else len(shape) == rank
            stacked = len(shape) == rank + 1 or (scalar and len(shape) == 1)
            of_any_rank = feature.shapes == Shapes()
            steps = shape[0] if stacked else None
            yield feature.name, _Given(shape, single or of_any_rank, steps)
