"""Samples that fit a model and still cannot be what it was made for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import InputError, SampleWarning
from mlpass.program.ir import Constant, TensorType, Value
from mlpass.program.reads import values_of
from mlpass.runtime.description import Feature
from mlpass.runtime.features import as_array, is_picture
from mlpass.runtime.function_plan import FunctionPlan
from mlpass.runtime.interpreter import Part
from mlpass.runtime.samples import Inputs, Sample
from mlpass.runtime.steps import Keeping, numbered_steps

LOOKED_AT = 16  # samples, from the first on
_SMALL = 4  # elements: an input that has no more may well be the same in all samples
_PASSING = ("cast", "identity", "select", "add", "expand_dims", "squeeze", "reshape")
"""Ops that hand indices on, with what coremltools puts there for those that count from the end."""


class Runner(Keeping, Protocol):
    """Something that runs samples: an `Interpreter`, or a function of a module of torch."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its programs; none where Core ML runs them."""


def warn_of(runner: Runner, samples: Sequence[Sample], *, alone: bool = False) -> None:
    """Warns of samples that a model takes, but that can hardly be meant for it.

    Args:
        runner: of the model.
        samples: as for `Interpreter.predict`; the first of them are looked at.
        alone: whether they are to show no more than themselves, and may be of one value.

    Warns:
        SampleWarning: once for each thing that is odd, with what was expected. All come from one
            place, so that Python shows the same text once.
    """
    for text in doubts(runner, samples, alone=alone):
        warnings.warn(text, SampleWarning, stacklevel=1)


def doubts(runner: Runner, samples: Sequence[Sample], *, alone: bool = False) -> Iterator[str]:
    """Yields what is odd about the first samples: see `warn_of`."""
    steps: list[Inputs] = []
    for number, sample in enumerate(islice(samples, LOOKED_AT)):
        steps += numbered_steps(sample, runner, number)
    varies, several = alone, len(samples) > 1
    for feature in runner.inputs:
        given = [step[feature.name] for step in steps if step.get(feature.name) is not None]
        try:
            arrays = [as_array(feature, each) for each in given]
        except InputError:
            arrays = []
        arrays = [each for each in arrays if each.size]
        if not arrays:
            varies = True  # nothing is known of what is not a number, or empty
            continue
        varies |= _vary(arrays) or (not several and not _is_constant(arrays[0]))
        if feature.kind == "image":
            if not any(map(is_picture, given)):
                yield from _image(feature, arrays)
        elif feature.dtype.startswith("fp") and all(a.dtype == np.uint8 for a in arrays):
            yield (
                f"input {feature.name!r}: takes {feature.dtype}, and is given uint8, 0 to 255 as "
                "pixels are: scale them as they were in training, often to 0 to 1"
            )
        elif feature.dtype.startswith(("int", "uint")) and runner.parts:
            yield from _indices(runner.parts[0].plan, feature, arrays)
        if any(array.dtype.kind == "f" and np.isnan(array).any() for array in arrays):
            yield f"input {feature.name!r}: holds NaN, which spreads to all that is made of it"
    if steps and not varies:
        what = "samples are all alike: they show" if several else "sample is of one value: it shows"
        yield f"the {what} nothing of what the model meets; give some of its real inputs"


def _vary(arrays: Sequence[NDArray[np.generic]]) -> bool:
    first = arrays[0]
    return any(not np.array_equal(first, other) for other in arrays[1:])


def _is_constant(array: NDArray[np.generic]) -> bool:
    return array.size > _SMALL and bool(np.all(array == array.flat[0]))


def _image(feature: Feature, arrays: Sequence[NDArray[np.generic]]) -> Iterator[str]:
    low, high = min(a.min() for a in arrays), max(a.max() for a in arrays)
    if low >= -1 and 0 < high <= 1:
        yield (
            f"input {feature.name!r}: is an image, of 0 to 255, and all values lie in "
            f"{float(low):.3g} to {float(high):.3g}: multiply them by 255, or give PIL images"
        )


def _indices(
    plan: FunctionPlan, feature: Feature, arrays: Sequence[NDArray[np.generic]]
) -> Iterator[str]:
    rows = _rows_of_tables(plan, feature.name)
    if not rows:
        return
    ends = min(a.min() for a in arrays), max(a.max() for a in arrays)
    if not np.isfinite(ends).all():
        return  # it is refused where it is read
    low, high = map(int, ends)
    if high >= min(rows) or low < -min(rows):
        yield (
            f"input {feature.name!r}: picks rows of a table of {min(rows)}, and holds "
            f"{high if high >= min(rows) else low}: are these the ids of another tokenizer?"
        )


def _rows_of_tables(plan: FunctionPlan, name: str) -> list[int]:
    """Returns the sizes of the constant axes that an input's values are places on."""
    handed_on: set[object] = {value for value in plan.block.inputs if value.name == name}
    rows = []
    for step in plan.block.steps:
        op = step.op
        if op.type in _PASSING and handed_on.intersection(values_of(op)):
            handed_on.update(op.outputs)
        elif op.type == "gather" and handed_on.intersection(op.inputs.get("indices", ())):
            table, axis = op.inputs["x"][0], _axis(plan, op.inputs.get("axis", ()))
            if table in plan.makers and isinstance(table.type, TensorType) and axis is not None:
                rows.append(table.type.shape[axis] or 0)
    return [each for each in rows if each]


def _axis(plan: FunctionPlan, sources: Sequence[Value | Constant]) -> int | None:
    """Returns a gather's axis, None where it is not stated."""
    if not sources:
        return 0
    source = sources[0]
    if isinstance(source, Value):
        stated = plan.makers[source].inputs.get("val", ()) if source in plan.makers else ()
        source = stated[0] if stated else source
    return int(source.read()) if isinstance(source, Constant) else None
